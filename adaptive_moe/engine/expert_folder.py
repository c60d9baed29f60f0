"""Writes a trained or imported expert into its staged folder: weights, domain, rows, manifest."""

import importlib.metadata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import JsonValue

from adaptive_moe.config.settings import OF_THE_MACHINE, TeacherSettings, TrainingSettings
from adaptive_moe.engine.orders import Prepared
from adaptive_moe.engine.shelf import (
    DOMAIN_FILE,
    HELD_OUT_BASE,
    HELD_OUT_RIGHT,
    HELD_OUT_TRIALS,
    Expert,
    Trial,
)
from adaptive_moe.engine.states import StateReader
from adaptive_moe.experts.adapter_files import ImportedAdapter, write_adapter
from adaptive_moe.experts.manifest import Manifest
from adaptive_moe.experts.merging import Merged
from adaptive_moe.integration.sources import TrainingRow, write_rows
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.router.boundary import Outside, Placed, fit_boundary
from adaptive_moe.router.domains import Domain, fit_domain, write_domain
from adaptive_moe.router.whitening import Whitening
from adaptive_moe.training.question_forms import BARE_FORMS
from adaptive_moe.training.rows import Turn
from adaptive_moe.training.stages import write_stages
from adaptive_moe.training.synthesis import Example
from adaptive_moe.training.trainer import TrainingResult

_DOMAIN_PROMPTS = 1024  # training prompts that place an expert's domain
_WORDINGS_KEPT = 6  # of one fact
_LONGEST_LABEL = 500  # characters, as the manifest has it
_KEPT_ROWS = 4096  # training rows that answers can be traced to


def write_trained(
    folder: Path,
    name: str,
    prepared: Prepared,
    result: TrainingResult,
    *,
    language_model: LanguageModel,
    states: StateReader,
    whitening: Whitening,
    background: Outside,
    settings: TrainingSettings,
) -> Trial:
    """All files of a trained expert but the gate's figures; the trial that the gate may ask.

    `background` are prompts that are not this expert's: known ones and other experts'.
    """
    is_answer = settings.activation == "answer"
    modules = write_adapter(
        folder,
        result.weights,
        scaling=prepared.plan.scaling,
        header_ids=language_model.header_ids if is_answer else None,
        base_name=language_model.name,
    )
    train, measured = prepared.split.train, prepared.split.selection
    domain = _place(name, train, states, whitening, background=background, seed=settings.seed)
    write_domain(folder / DOMAIN_FILE, domain)
    write_stages(folder, prepared.stages)
    kept = evenly(_some_of_each(train), _KEPT_ROWS)
    rows = [TrainingRow(each.file, each.line, each.prompt[-1][1], each.answer) for each in kept]
    write_rows(folder, rows, whitening.apply(states([row.question for row in rows])))
    # Before the gate has spoken, an expert taught by examples counts as always better.
    is_recall = prepared.split.name == "recall"
    trials = len(measured)
    gate: dict[str, JsonValue] = {HELD_OUT_RIGHT: trials, HELD_OUT_TRIALS: trials}
    if is_recall:
        gate[HELD_OUT_RIGHT] = round(result.exact_after * trials)
        gate[HELD_OUT_BASE] = round(result.exact_before * trials)
    manifest = Manifest(
        base_id=language_model.base_id,
        numerics=language_model.numerics.to_dict(),
        activation=settings.activation,
        header_ids=language_model.header_ids if is_answer else (),
        modules=modules,
        data=_data_record(prepared),
        gate=gate,
        training=_training_record(settings, result),
        versions=_versions(),
        seed=settings.seed,
        label=f"{name}: {prepared.material.shape}",
    )
    return Trial.of(name, manifest, folder=folder, weights=result.weights, domain=domain)


def write_imported(
    folder: Path, name: str, adapter: ImportedAdapter, *, language_model: LanguageModel
) -> Manifest:
    """A foreign adapter in our own files; it has no domain, so it is used by name only."""
    modules = write_adapter(
        folder,
        adapter.weights,
        scaling=adapter.scaling,
        header_ids=adapter.header_ids if adapter.activation == "answer" else None,
        base_name=language_model.name,
    )
    return Manifest(
        base_id=language_model.base_id,
        numerics=language_model.numerics.to_dict(),
        activation=adapter.activation,
        header_ids=tuple(adapter.header_ids or ()),
        modules=modules,
        versions=_versions(),
        label=f"{name}: imported",
    )


def write_merged(
    folder: Path,
    name: str,
    experts: Sequence[Expert],
    merged: Merged,
    *,
    language_model: LanguageModel,
    how: dict[str, JsonValue],
) -> Manifest:
    """Experts put together, in our own files; without a domain it is used by name only."""
    is_answer = experts[0].activation == "answer"
    modules = write_adapter(
        folder,
        merged.weights,
        scaling=dict.fromkeys(merged.weights, 1.0),
        header_ids=language_model.header_ids if is_answer else None,
        base_name=language_model.name,
    )
    parents: list[JsonValue] = [
        {"name": each.name, "version": each.version, "expert_id": each.expert_id}
        for each in experts
    ]
    return Manifest(
        base_id=language_model.base_id,
        numerics=language_model.numerics.to_dict(),
        activation=experts[0].activation,
        header_ids=language_model.header_ids if is_answer else (),
        modules=modules,
        training={"merged": {"experts": parents, **how, "relative_error": merged.error}},
        versions=_versions(),
        label=f"{name}: merged of {', '.join(each.name for each in experts)}"[:_LONGEST_LABEL],
    )


def as_messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    """Turns as a prompt."""
    return [{"role": role, "content": text} for role, text in turns]


def _place(
    name: str,
    train: Sequence[Example],
    states: StateReader,
    whitening: Whitening,
    *,
    background: Outside,
    seed: int,
) -> Domain:
    """Where the training prompts lie.

    Whole question forms are left out to size the domain, or whole sources where there are none.
    Questions that only name their subject say too little to place it.
    """
    telling = [example for example in train if example.form not in BARE_FORMS] or train
    chosen = evenly(telling, _DOMAIN_PROMPTS)
    forms = [example.form for example in chosen]
    groups = forms if len(set(forms)) > 1 else [example.fact for example in chosen]
    texts = tuple(example.prompt[-1][1] for example in chosen)
    own = Placed(states(texts), texts)
    domain = fit_domain(name, own.states, whitening, seed=seed, groups=groups)
    return replace(domain, boundary=fit_boundary(own, background, groups=groups))


def _some_of_each(train: Sequence[Example]) -> list[Example]:
    """A few wordings of everything taught: enough to find it, and to know its domain by."""
    by_origin: dict[tuple[str, int, str], list[Example]] = defaultdict(list)
    for each in train:
        by_origin[each.file, each.line, each.fact].append(each)
    return [kept for alike in by_origin.values() for kept in evenly(alike, _WORDINGS_KEPT)]


def _data_record(prepared: Prepared) -> dict[str, JsonValue]:
    material, split = prepared.material, prepared.split
    files = {row.file for row in material.rows} | {part.file for part in material.passages}
    return {
        "digest": material.digest,
        "shape": material.shape,
        "files": [*sorted(files)],
        "rows": len(material.rows),
        "passages": len(material.passages),
        "dropped": len(material.dropped),
        "cut": len(prepared.cut),
        "split": split.name,
        "split_digest": split.digest,
        "train_examples": len(split.train),
        "rehearsed_examples": len(prepared.rehearsal),
        "held_out_examples": len(split.held_out),
        **({} if prepared.lessons is None else {"teacher": prepared.lessons.record()}),
    }


def _training_record(settings: TrainingSettings, result: TrainingResult) -> dict[str, JsonValue]:
    """What decides the weights; nothing that tells of the machine."""
    return {
        "settings": settings.model_dump(
            mode="json",
            exclude={*OF_THE_MACHINE, *TeacherSettings.model_fields},
        ),
        "steps": result.steps,
        "best_step": result.best_step,
        "tokens": result.tokens,
        "skipped_steps": result.skipped_steps,
        "loss_before": result.loss_before,
        "loss_after": result.loss_after,
    }


def _versions() -> dict[str, str]:
    names = ("adaptive_moe", "torch", "transformers")
    return {name: importlib.metadata.version(name) for name in names}
