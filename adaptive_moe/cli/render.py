"""Shows an answer: its text, how sure it is, who contributed what, and where that came from."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from adaptive_moe.cli.safe_text import clean, clean_line

if TYPE_CHECKING:
    from adaptive_moe.engine.events import Answer, AnswerAttribution, Source

_PALETTE = ("green", "cyan", "magenta", "yellow", "blue", "red")
_VISIBLE_NATS = 0.1  # less than this is not worth a colour
_STRONG_NATS = 1.0
_LONGEST_SOURCE = 100


def answer_parts(answer: "Answer") -> tuple[RenderableType, ...]:
    """The answer, coloured by share where experts gave it; its confidence; its sources."""
    parts: list[RenderableType] = [coloured_answer(answer), confidence_line(answer)]
    if answer.attribution is not None:
        parts.append(legend(answer.attribution))
        parts.extend(source_line(source) for source in answer.attribution.sources[:3])
    if answer.gap is not None:
        parts.append(_gap_line(answer))
    return tuple(parts)


def why_parts(answer: "Answer") -> tuple[RenderableType, ...]:
    """Why it was routed so, the scores, and every token with its shares."""
    parts: list[RenderableType] = [
        Text("Route", style="bold"),
        *(Text(f"  {clean_line(reason)}") for reason in answer.route.reasons),
        Text("Scores (higher is less sure)", style="bold"),
        _scores_line(answer.confidence.scores),
    ]
    if answer.attribution is not None:
        parts.append(Text("Shares, in nats", style="bold"))
        parts.append(share_table(answer.tokens, answer.attribution))
        parts.extend(source_line(source) for source in answer.attribution.sources)
    return tuple(parts)


def confidence_line(answer: "Answer") -> Text:
    """Who answered, how sure, how long: one dim line, led by ? when it is not to be trusted."""
    line = Text(style="dim")
    if answer.low_confidence:
        line.append("? ", style="bold yellow")
    line.append(f"{who(answer)} · {confidence_words(answer)}")
    line.append(f" · {_counted(answer.usage.completion_tokens, 'token')}")
    line.append(f" · {sum(answer.usage.seconds.values()):.2f} s")
    if answer.finish_reason == "interrupted":
        line.append(" · interrupted")
    elif answer.finish_reason == "length":
        line.append(" · cut at --max-new-tokens")
    return line


def who(answer: "Answer") -> str:
    """`base`, or the experts with version and gate."""
    if answer.route.kind == "base":
        return "base"
    return " + ".join(
        f"{clean_line(expert.name)} v{expert.version}"
        + (f" at {expert.gate:.2f}" if len(answer.route.experts) > 1 else "")
        for expert in answer.route.experts
    )


def confidence_words(answer: "Answer") -> str:
    """How far to trust it, in words and with the probability where there is one."""
    p_correct = answer.confidence.p_correct
    verdict = "low confidence" if answer.low_confidence else "confident"
    if p_correct is None:
        return f"{verdict} (untrained router)"
    kind = "" if answer.confidence.calibrated else ", not calibrated"
    return f"{verdict} (p = {p_correct:.2f}{kind})"


def coloured_answer(answer: "Answer") -> Text:
    """The text, each token in the colour of the expert that helped it most; bold from 1 nat on."""
    found = answer.attribution
    if found is None:
        return Text(clean(answer.text))
    text = Text()
    for token, shares in zip(answer.tokens, found.shares, strict=False):
        text.append(clean(token), style=_style([float(share) for share in shares]))
    whole = Text(clean(answer.text))
    return text if text.plain == whole.plain else whole


def legend(found: "AnswerAttribution") -> Text:
    """What every expert added to the whole answer, in its colour and in numbers."""
    line = Text("added: ", style="dim")
    for index, name in enumerate(found.experts):
        total = float(found.shares[:, index].sum())
        line.append("■ ", style=_colour(index))
        line.append(f"{clean_line(name)} {total:+.2f} nats  ")
    line.append("(log-probability of the answer against the base alone)", style="dim")
    return line


def share_table(tokens: Sequence[str], found: "AnswerAttribution") -> Table:
    """A row per token: base, routed, and shares that sum to their difference; a row of sums."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("token", overflow="fold")
    for heading in ("log p base", "log p routed"):
        table.add_column(heading, justify="right")
    for index, name in enumerate(found.experts):
        table.add_column(Text(clean_line(name), style=_colour(index)), justify="right")
    for row, token in enumerate(tokens):
        shares = [float(share) for share in found.shares[row]]
        table.add_row(
            Text(_visible(token), style=_style(shares)),
            _number(float(found.base_log_probability[row])),
            _number(float(found.routed_log_probability[row])),
            *(_signed(share) for share in shares),
        )
    table.add_section()
    table.add_row(
        Text("all", style="bold"),
        _number(float(found.base_log_probability.sum())),
        _number(float(found.routed_log_probability.sum())),
        *(_signed(float(total)) for total in found.shares.sum(axis=0)),
    )
    if not found.exact:
        table.caption = f"sampled; standard error of a share {found.error:.3f}"
    return table


def source_line(source: "Source") -> Text:
    """The training row that an answer can be traced to: file:line question -> answer."""
    line = Text("  from ", style="dim")
    line.append(f"{clean_line(source.file)}:{source.line}", style="underline")
    told = f"{clean_line(source.question)} → {clean_line(source.answer)}"
    line.append(f"  {_shorten(told)}", style="dim")
    line.append(f"  ({source.similarity:.2f})", style="dim")
    return line


def _gap_line(answer: "Answer") -> Text:
    assert answer.gap is not None
    state, label = answer.gap.state.lower(), clean_line(answer.gap.label)
    return Text(f"evidence for gap {answer.gap.id} ({label}), {state}", style="dim yellow")


def _scores_line(scores: Mapping[str, float]) -> Text:
    told = (f"{clean_line(name)} {value:.3f}" for name, value in scores.items())
    return Text("  " + "  ".join(told))


def _style(shares: Sequence[float]) -> str:
    """The style of a token with these shares: that of the strongest, none when all are small."""
    finite = [(abs(share), index) for index, share in enumerate(shares) if math.isfinite(share)]
    strength, index = max(finite, default=(0.0, 0))
    if strength < _VISIBLE_NATS:
        return ""
    weight = "bold " if strength >= _STRONG_NATS else ""
    harmful = "strike " if shares[index] < 0 else ""
    return f"{weight}{harmful}{_colour(index)}"


def _colour(index: int) -> str:
    return _PALETTE[index % len(_PALETTE)]


def _visible(token: str) -> str:
    """A token with its spaces and line breaks made visible."""
    shown = clean(token).replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return shown or "(part of a character)"


def _number(value: float) -> str:
    return f"{value:.2f}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _shorten(text: str) -> str:
    return text if len(text) <= _LONGEST_SOURCE else text[: _LONGEST_SOURCE - 1] + "…"
