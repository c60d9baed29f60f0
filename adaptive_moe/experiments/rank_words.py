"""What the study of rank strategies asked and found, in sentences made from its figures."""

from collections.abc import Iterator, Sequence

from adaptive_moe.experiments.rank_findings import (
    LEVEL,
    Comparison,
    SetFindings,
    least_adjusted,
)
from adaptive_moe.experiments.rank_runs import CONTROL, FIXED, OPTIMIZER, RankPlan


def conclusion(
    plan: RankPlan,
    sets: Sequence[SetFindings],
    against_fixed: Sequence[Comparison],
    against_control: Sequence[Comparison],
) -> Iterator[str]:
    """Whether `fixed` stays the default, whether anything beats chance, and what is preliminary."""
    used = [each.name for each in sets if each.is_used]
    if not used:
        small, great = plan.floor_ranks
        yield (
            f"So far no set tells uniform rank {small} from {great}, so nothing is compared; "
            f"`{FIXED}` stays the default."
        )
        return
    missing = sum(len(each.missing) for each in sets)
    if missing:
        yield f"**Preliminary: {missing} runs are missing, so no verdict below is final.**"
    if not against_fixed:
        yield f"No arm can be compared yet; `{FIXED}` stays the default."
        return
    yield _against_fixed(against_fixed)
    yield _resolution(against_fixed)
    if against_control:
        yield _against_control(against_control)


def _against_fixed(found: Sequence[Comparison]) -> str:
    wins = sorted(_having(found, "win"), key=lambda each: -each.exact.mean)
    losses = _having(found, "loss")
    alike = _having(found, "not distinguishable")
    open_ones = _having(found, "too few pairs")
    said = []
    if wins:
        told = ", ".join(f"`{each.arm}` ({_effect(each)})" for each in wins)
        said.append(f"Better than `{FIXED}`: {told}. The default should be `{wins[0].arm}`.")
    else:
        said.append(f"No arm wins against `{FIXED}`, which stays the default.")
    if losses:
        told = ", ".join(f"`{each.arm}` ({_effect(each)})" for each in losses)
        said.append(f"Worse: {told}.")
    if alike:
        said.append(f"Not distinguishable from it: {_names(alike)}.")
    if open_ones:
        said.append(_too_few(open_ones, len(found)))
    return " ".join(said)


def _too_few(found: Sequence[Comparison], arms: int) -> str:
    pairs = min(each.pairs for each in found)
    least = least_adjusted(pairs, arms)
    return (
        f"Not decided: {_names(found)}: with {pairs} pairs no p among {arms} arms can be less "
        f"than {least:.3g} after Holm, so {LEVEL:g} is out of reach whatever they score."
    )


def _resolution(found: Sequence[Comparison]) -> str:
    pairs = min(each.pairs for each in found)
    if pairs == 1:
        return "One pair says nothing about how far chance alone would part two arms."
    halves = [(each.exact.high - each.exact.low) / 2 for each in found]
    return (
        f"With {pairs} pairs the least p that is possible is {least_adjusted(pairs, 1):.2g}, after "
        f"Holm {least_adjusted(pairs, len(found)):.2g}. The intervals reach {min(halves):.3f} to "
        f"{max(halves):.3f} to either side: smaller differences may exist and are not seen here."
    )


def _against_control(found: Sequence[Comparison]) -> str:
    wins, losses = _having(found, "win"), _having(found, "loss")
    worse = f" Worse than it: {_names(losses)}." if losses else ""
    if _having(found, "too few pairs"):
        return f"Nor is it decided whether any arm beats `{CONTROL}`, the control.{worse}"
    if not wins:
        return (
            f"None beats `{CONTROL}`, the control whose ranks are drawn anew for every seed: that "
            f"where the parameters lie matters here is not shown.{worse}"
        )
    rest = [each for each in found if each not in wins and each not in losses]
    others = f" Not distinguishable from it: {_names(rest)}." if rest else ""
    return f"Better than `{CONTROL}`, the control: {_names(wins)}.{others}{worse}"


def _having(found: Sequence[Comparison], verdict: str) -> list[Comparison]:
    return [each for each in found if each.verdict == verdict]


def _names(found: Sequence[Comparison]) -> str:
    return ", ".join(f"`{each.arm}`" for each in found)


def _effect(each: Comparison) -> str:
    found = each.exact
    return f"{found.mean:+.3f}, 95 % {found.low:+.3f} to {found.high:+.3f}"


def method(plan: RankPlan) -> str:
    """How the figures came about, for the plan that was followed."""
    small, great = plan.floor_ranks
    return f"""\
Does it matter where an expert's parameters lie? Every arm trains on the pocket model with exactly
the parameters of rank {plan.reference_rank} everywhere, read back from the trained factors; it
takes the same {plan.steps} steps of 32 examples by {OPTIMIZER} and, seed by seed, the same examples
in each.

* **Sides.** Every fact is taught in many wordings. Some held-out wordings choose a run's best
  weights, looked at every 80 steps, and its arm's rate. Others, one a fact, are asked once, of the
  finished run; nothing is chosen by them. An answer is right if greedy decoding gives exactly it.
* **Noise floor.** Uniform rank {small} and {great} on {len(plan.floor_seeds)} seeds, at a rate of
  {plan.floor_rate:g}. The floor is the limit that 95 % of the differences keep between two runs
  unlike in nothing but the seed: t * sqrt(2) * the deviation between seeds, pooled over both ranks.
  A set on which so many more parameters change less than a seed does cannot tell where they lie,
  and is left out.
* **Rates.** Chosen for every arm and set on one seed that is used for nothing else. One seed also
  means one draw of the ranks of `{CONTROL}`.
* **Seeds.** A seed draws the factors, the order of examples, the ranks of `{CONTROL}` and the
  calibration batch of `gradient`. Facts, wordings and sides are the same for all.
* **Test.** A pair is an arm and what it is compared with on one set and seed. The facts of a run
  are right or wrong together, with its seed, so pairs are what is tested: by the exact sign-flip
  test, which asks of the differences no more than that each were as likely the other way round, if
  arms were alike. A bootstrap that draws five seeds again would be too sure of itself. Holm's
  correction goes over the arms of a table; a verdict wants p <= {LEVEL:g} after it.
* **Intervals.** Student's over the pairs; those over facts (a bootstrap of whole facts, the runs
  being what they are) say how much hangs on which facts were asked. Loss is told and not tested.
* What holds for these sets, this model and so many steps need not hold for others."""
