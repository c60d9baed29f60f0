"""One nearest-domain index over the base's own domains and the experts that could answer."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

from adaptive_moe.router.choice import BASE_PREFIX, EXPERT_PREFIX, ExpertArm
from adaptive_moe.router.domains import DomainIndex
from adaptive_moe.router.model import RouterModel

_LOGGER = logging.getLogger(__name__)
# Domains hold arrays: they are the same only as objects.
_COMPARED = tuple(field.name for field in fields(ExpertArm) if field.name != "domain")


@dataclass(frozen=True, slots=True)
class ArmIndex:
    """An index over the base's domains and these arms.

    `labels` says what its keys are called, `by_id` holds the arms that can be matched.
    """

    arms: tuple[ExpertArm, ...]
    index: DomainIndex
    labels: Mapping[str, str]
    by_id: Mapping[str, ExpertArm]

    def holds(self, arms: Sequence[ExpertArm]) -> bool:
        """Whether it was built for exactly these arms, records of success included."""
        if self.arms is arms:
            return True
        return len(self.arms) == len(arms) and all(
            old is new or _is_same(old, new) for old, new in zip(self.arms, arms, strict=True)
        )


def index_arms(model: RouterModel, arms: Sequence[ExpertArm]) -> ArmIndex:
    """The index for these arms.

    An expert whose domain was fitted under another whitening is left out with a warning: its
    distances would mean nothing.
    """
    index = DomainIndex(model.whitening)
    labels: dict[str, str] = {}
    # Without known domains the base still defends its ordinary prompts as a whole.
    if not model.known_domains:
        index.add(model.background, key=BASE_PREFIX)
    for domain in model.known_domains:
        key = f"{BASE_PREFIX}{domain.label}"
        index.add(domain, key=key)
        labels[key] = domain.label
    usable = {}
    for arm in arms:
        if arm.domain.whitening_digest != model.whitening.digest:
            _LOGGER.warning(
                "expert %s cannot be matched: its domain belongs to another router; fit it again",
                arm.name,
            )
            continue
        key = f"{EXPERT_PREFIX}{arm.expert_id}"
        index.add(arm.domain, key=key)
        labels[key] = arm.domain.label
        usable[arm.expert_id] = arm
    return ArmIndex(tuple(arms), index, labels, usable)


def _is_same(old: ExpertArm, new: ExpertArm) -> bool:
    return old.domain is new.domain and all(
        getattr(old, name) == getattr(new, name) for name in _COMPARED
    )
