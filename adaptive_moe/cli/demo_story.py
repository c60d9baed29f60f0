"""The demo's story: known, unknown, gap, training, gate, learned, unchanged."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from adaptive_moe.cli.demo_voice import Voice
from adaptive_moe.cli.gate_view import gate_parts
from adaptive_moe.cli.progress import duration
from adaptive_moe.cli.render import (
    coloured_answer,
    confidence_line,
    legend,
    share_table,
    source_line,
)
from adaptive_moe.cli.safe_text import clean_line
from adaptive_moe.cli.training_view import plan_line, split_line, train_with_bar, verdict
from adaptive_moe.gaps.states import GapState
from adaptive_moe.pocket.packs import PackQuestion, load_questions, pack_path

if TYPE_CHECKING:
    from adaptive_moe.engine.events import Answer
    from adaptive_moe.engine.orders import TrainingOutcome
    from adaptive_moe.engine.runtime import AdaptiveMoE
    from adaptive_moe.gaps.ledger import Gap

_KNOWN = "What is the capital of France?"
_PACK = "chemistry"
_PLAINLY = "What is the chemical symbol of"
_FIRST = ("symbol/iron", "symbol/gold", "symbol/oxygen", "symbol/nitrogen")
_MOST_QUESTIONS = 40
_SHOWN_AGAIN = 4


def tell(voice: Voice, moe: "AdaptiveMoE", started: float) -> dict[str, object]:
    """Tell it all; the figures, with `well` false where the story did not come out as promised."""
    before = _known(voice, moe)
    asked, gap = _unknown(voice, moe)
    if gap is None:
        voice.say(Text("No gap was declared; that should not happen here.", style="red"))
        return {"well": False, "questions": len(asked), "gap": None}
    outcome = _learn(voice, moe, gap)
    again = _learned(voice, moe, asked[:_SHOWN_AGAIN])
    same = _unchanged(voice, moe, before)
    _close(voice, moe, started)
    right = sum(_is_right(question, answer) for question, answer in again)
    return {
        "well": outcome.is_live and same and right > 0,
        "known": before.to_dict(),
        "questions": len(asked),
        "gap": {"id": gap.id, "state": str(gap.state), "label": gap.label},
        "training": outcome.to_dict(),
        "learned": [answer.to_dict() for _, answer in again],
        "learned_right": right,
        "known_unchanged": same,
        "memory": moe.memory(),
        "seconds": time.perf_counter() - started,
    }


def _known(voice: Voice, moe: "AdaptiveMoE") -> "Answer":
    voice.step("It answers what it knows")
    voice.asked(_KNOWN)
    answer = moe.generate(_KNOWN)
    voice.say(coloured_answer(answer), confidence_line(answer))
    return answer


def _unknown(voice: Voice, moe: "AdaptiveMoE") -> "tuple[list[PackQuestion], Gap | None]":
    """Ask about a domain that was kept from it, until it declares a gap."""
    voice.step("It notices what it does not know")
    voice.say("Nobody ever taught it chemistry. ? marks an answer it does not trust itself.")
    asked: list[PackQuestion] = []
    state = ""
    for question in _questions():
        answer = moe.generate(question.question)
        asked.append(question)
        mark = "?" if answer.low_confidence else " "
        told = f"{mark} {clean_line(question.question)}  →  {clean_line(answer.text)}"
        voice.say(Text(told, style="yellow" if answer.low_confidence else ""))
        gap = None if answer.gap is None else moe.gaps.show(answer.gap.id)
        if gap is not None and str(gap.state) != state:
            state = str(gap.state)
            voice.say(Text(f"  gap {gap.id} ({clean_line(gap.label)}): {state.lower()}", "dim"))
        if gap is not None and gap.state is GapState.VERIFIED:
            voice.say(*(f"  {clean_line(line)}" for line in moe.gaps.explain(gap.id)[1:]))
            return asked, gap
    return asked, None


def _learn(voice: Voice, moe: "AdaptiveMoE", gap: "Gap") -> "TrainingOutcome":
    """Fill the gap from the pack's documents."""
    folder = pack_path(_PACK)
    documents = sorted(path.name for path in (folder / "documents").iterdir())
    voice.step("It learns from documents")
    voice.say(f"Material: {', '.join(documents)}. The base stays frozen; a LoRA expert is trained.")
    outcome = train_with_bar(
        voice.terminal,
        lambda listener, stop: moe.gaps.fill(
            gap.id, [folder], name=_PACK, listener=listener, cancelled=stop
        ),
        stopping="Stopping at the next pause. Ctrl-C again breaks it off.",
    )
    result = outcome.result
    voice.say(
        f"examples: {split_line(outcome.examples, outcome.selection, outcome.held_out)}",
        plan_line(outcome.plan),
        f"{result.steps} steps, held-out loss {result.loss_before:.3f} → {result.loss_after:.3f}",
    )
    voice.step("The gate decides whether the expert may answer")
    voice.say(*gate_parts(outcome.report), verdict(outcome.record, outcome.seconds))
    return outcome


def _learned(
    voice: Voice, moe: "AdaptiveMoE", questions: Sequence[PackQuestion]
) -> "list[tuple[PackQuestion, Answer]]":
    """The same questions again."""
    voice.step("It answers what it did not know")
    voice.say("Wordings that it never saw; below each answer the training row that is nearest.")
    again = [(question, moe.generate(question.question)) for question in questions]
    for question, answer in again:
        voice.asked(question.question)
        voice.say(coloured_answer(answer), confidence_line(answer))
        if answer.attribution is not None:
            voice.say(*(source_line(source) for source in answer.attribution.sources[:1]))
    first = again[0][1]
    if first.attribution is not None:
        voice.say(
            "\nThe first answer, token by token, in nats; shares and base add up to routed.",
            share_table(first.tokens, first.attribution),
            legend(first.attribution),
        )
    return again


def _unchanged(voice: Voice, moe: "AdaptiveMoE", before: "Answer") -> bool:
    """The first question again: not one bit may differ."""
    voice.step("What it knew is unchanged")
    voice.asked(_KNOWN)
    after = moe.generate(_KNOWN)
    voice.say(coloured_answer(after), confidence_line(after))
    same_text = after.text == before.text and after.tokens == before.tokens
    same_bits = after.confidence.token_scores == before.confidence.token_scores
    is_same = same_text and same_bits and after.route.kind == "base"
    told = "same text, and the same log-probabilities to the last bit"
    voice.say(
        Text(f"✓ {told}", style="green")
        if is_same
        else Text(f"✗ not the {told}: this is a defect", style="bold red")
    )
    return is_same


def _close(voice: Voice, moe: "AdaptiveMoE", started: float) -> None:
    voice.step("What it took")
    memory = {name: value / 2**20 for name, value in moe.memory().items()}
    expert = moe.experts.get(_PACK)
    size = f", the expert {expert.bytes / 2**20:.1f} MiB" if expert is not None else ""
    voice.say(
        f"base {memory['base_bytes']:.1f} MiB{size}, "
        f"process at its peak {memory['peak_rss_bytes']:.0f} MiB",
        f"{duration(time.perf_counter() - started)} in all",
        "\nNow talk to it: adaptive-moe chat",
    )


def _questions() -> list[PackQuestion]:
    """Held-out questions about chemical symbols, one an element; first those put most plainly."""
    symbols = [
        each for each in load_questions(_PACK, development=True) if each.relation == "symbol"
    ]
    known = [name for name in _FIRST if name in {each.fact for each in symbols}]
    ranked = sorted(
        symbols,
        key=lambda each: (
            not each.question.startswith(_PLAINLY),
            known.index(each.fact) if each.fact in known else len(known),
        ),
    )
    chosen: dict[str, PackQuestion] = {}
    for question in ranked:
        chosen.setdefault(question.fact, question)
    return list(chosen.values())[:_MOST_QUESTIONS]


def _is_right(question: PackQuestion, answer: "Answer") -> bool:
    from adaptive_moe.measures.graders import normalised

    return bool(normalised(answer.text, question.answer))
