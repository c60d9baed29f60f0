"""Writes the pocket model's card and its figures from one measurement."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adaptive_moe.pocket.measuring import Figures
from adaptive_moe.pocket.tokenizer import HEADER

FIGURES_NAME = "figures.json"
CARD_NAME = "README.md"
AIM_TRAINED = 0.95
AIM_HELD_OUT = 0.85


def write_card(figures: Figures, folder: Path) -> None:
    """Write figures.json and README.md beside the weights."""
    text = json.dumps(asdict(figures), indent=2) + "\n"
    (folder / FIGURES_NAME).write_text(text, encoding="utf-8")
    build = json.loads((folder / "build.json").read_text(encoding="utf-8"))
    (folder / CARD_NAME).write_text(render_card(figures, build), encoding="utf-8")


def render_card(figures: Figures, build: Mapping[str, Any]) -> str:
    """The card as Markdown; every number comes from the figures or the record of the build."""
    shape = build["shape"]
    return "\n".join(
        (
            "# The pocket model",
            "",
            "A tiny causal language model, trained from nothing by this project on facts that the",
            "project wrote down itself. It is the default base of the demo and of the tests, so",
            "that everything can be run and measured offline with known truth. It is no",
            "substitute for a real model.",
            "",
            f"{figures.parameters:,} parameters stored as fp16: {shape['layers']} layers, width",
            f"{shape['width']}, feed-forward {shape['feed_forward']}, context {shape['context']},",
            f"own byte-level BPE of {shape['vocabulary']} tokens (digits one by one). A reply",
            f"begins after the header `{''.join(HEADER)}` and ends with `<|end|>`.",
            f"It was taught {figures.facts:,} true facts of {figures.domains} domains, greetings,",
            "to read any word, and to tell what a question asks for. Each fact was drawn to stand",
            "in 0, 1, 4, 16 or 64 distinct training rows (its exposure), inside every domain;",
            "`facts.jsonl` records which.",
            "",
            "## Measured on the stored weights (exact match, greedy, chat template)",
            "",
            *_exposure_table(figures),
            "",
            f"Facts seen 1, 4 or 16 times: {figures.accuracy_seen_1_4_16:.3f} right.",
            "Asked what a question in an unseen wording wants to know (one of hundreds of",
            f"attributes, none of them a fact): {figures.accuracy_wanted_held_out:.3f} right.",
            *_aims(figures),
            "",
            "## Withheld packs, before any expert",
            "",
            *_pack_table(figures),
            "",
            "First-token entropy tells questions of the packs from those about facts seen 64 times",
            f"with an AUROC of {figures.auroc_of_entropy_64_against_packs:.3f}.",
            "",
            "## Facts seen 64 times, by domain",
            "",
            "| domain | right |",
            "| --- | --- |",
            *(f"| {name} | {share:.3f} |" for name, share in figures.accuracy_64_by_domain.items()),
            "",
            "## Making it again",
            "",
            f"`python -m adaptive_moe.pocket build --steps {build['recipe']['steps']}` (seed",
            f"{build['seed']}), then `python -m adaptive_moe.pocket evaluate`.",
            "The sources of the facts are named in the fact files; `python -m adaptive_moe.pocket",
            "check` guards them. Some answers about facts of low exposure are wrong on purpose of",
            "the experiment: the model must also be able not to know.",
            "",
        )
    )


def _aims(figures: Figures) -> list[str]:
    """Whether facts seen 64 times reach what the project set out for."""
    found = (
        ("trained", figures.accuracy_trained["64"], AIM_TRAINED),
        ("held-out", figures.accuracy_held_out["64"], AIM_HELD_OUT),
    )
    return [
        f"Aim for facts seen 64 times in {kind} phrasings: {aim:.2f},"
        f" {'reached' if share >= aim else 'missed'}."
        for kind, share, aim in found
    ]


def _exposure_table(figures: Figures) -> list[str]:
    rows = [
        f"| {exposure} | {count} | {figures.accuracy_trained[exposure]:.3f}"
        f" | {figures.accuracy_held_out[exposure]:.3f}"
        f" | {figures.entropy_by_exposure[exposure]:.2f} |"
        for exposure, count in figures.facts_by_exposure.items()
    ]
    return [
        "| exposure | facts | trained phrasings | held-out phrasings | median entropy (nats) |",
        "| --- | --- | --- | --- | --- |",
        *rows,
    ]


def _pack_table(figures: Figures) -> list[str]:
    rows = [
        f"| {name} | {share:.3f} | {figures.entropy_packs[name]:.2f} |"
        for name, share in figures.accuracy_packs.items()
    ]
    return ["| pack | right | median entropy (nats) |", "| --- | --- | --- |", *rows]
