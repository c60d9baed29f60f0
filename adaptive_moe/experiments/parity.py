"""Is it the same? Base logits to the bit, PEFT's logits to rounding, and any batch like another."""

import torch

from adaptive_moe.experiments import against_peft, bases, batch_parity
from adaptive_moe.experiments.figures import Figure, Findings
from adaptive_moe.experiments.plan import Plan, Tell
from adaptive_moe.experiments.untouched_base import largest_changes
from adaptive_moe.models.language_model import LanguageModel


def run(plan: Plan, tell: Tell) -> Findings:
    """The three questions on every model; PEFT's logits where the base is float32."""
    found: list[Figure] = []
    details: dict[str, object] = {}
    for title in plan.bases:
        tell(f"{title}: loading")
        language_model = bases.load(title, plan.device)
        tell(f"{title}: logits of the base")
        changes = details[title] = largest_changes(language_model, plan)
        found.append(
            Figure(
                "base_logits",
                f"largest change after {len(changes)} events",
                title,
                max(changes.values()),
                target=0.0,
                is_timed=False,
            )
        )
        if _is_plain(language_model):
            tell(f"{title}: logits of PEFT")
            found += against_peft.figures(language_model, plan, title=title)
        tell(f"{title}: batches and padding")
        found += batch_parity.figures(language_model, plan, title=title)
    return Findings(tuple(found), details)


def _is_plain(language_model: LanguageModel) -> bool:
    is_quantised = language_model.numerics.quantization is not None
    return language_model.dtype == torch.float32 and not is_quantised
