"""Who answers a prompt: asks the router or obeys the caller, and has the experts ready."""

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import final

from adaptive_moe.engine.request import Request
from adaptive_moe.engine.shelf import Activation, ExpertShelf
from adaptive_moe.errors import (
    AdaptiveMoEError,
    ConfigurationError,
    CorruptExpertError,
    UnknownExpertError,
)
from adaptive_moe.experts.cache import ExpertCache
from adaptive_moe.experts.pool import Mixture
from adaptive_moe.integration.mixing import RULES, Mixed
from adaptive_moe.models.language_model import LanguageModel
from adaptive_moe.router.router import Evidence, RouteDecision, Router

logger = logging.getLogger(__name__)


@final
class Chooser:
    """Turns a prompt's evidence into a route and a mixture that is ready to be used."""

    def __init__(
        self,
        language_model: LanguageModel,
        cache: ExpertCache,
        shelf: ExpertShelf,
        router: Router,
        *,
        mixing: str,
    ) -> None:
        self._language_model = language_model
        self._cache = cache
        self._shelf = shelf
        self._rule = RULES[mixing]
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch")
        self.router = router

    def choose(self, evidence: Evidence, request: Request) -> tuple[RouteDecision, Mixture]:
        """The route, and its experts on the device; those found broken on the way are left out.

        Raises UnknownExpertError for a forced name, ConfigurationError for experts that cannot be
        mixed, and BankFullError where the device has no room for them.
        """
        broken: list[str] = []
        while True:
            decision = self._decide(evidence, request, tuple(broken))
            mixture, failed = self._prepare(decision)
            if failed is None:
                decision = self._as_mixed(decision, mixture)
                self._check_kinds(decision, mixture)
                reasons = (*decision.reasons, *self._numerics_notes(decision))
                return replace(decision, reasons=reasons), mixture
            broken.append(failed)

    def instead(self, decision: RouteDecision) -> tuple[RouteDecision, Mixture] | None:
        """The route by the router's second choice, which is on the device; None without any.

        Raises BankFullError where the device has no room for it.
        """
        other = decision.instead
        if other is None:
            return None
        try:
            mixture, failed = self._prepare(other)
        except UnknownExpertError:  # it was removed since the decision
            return None
        if failed is not None:
            return None
        return replace(other, reasons=(*other.reasons, *self._numerics_notes(other))), mixture

    def activation(self, mixture: Mixture) -> Activation:
        """Where the experts of a mixture begin to act."""
        kinds = {self._shelf.activation(expert_id) for expert_id, _ in mixture}
        return "prompt" if kinds == {"prompt"} else "answer"

    def mixed(self, mixture: Mixture) -> Mixed:
        """What the gates of a mixture weigh; of a single expert it is its updates by any rule."""
        return self._rule.mixed if len(mixture) > 1 else "updates"

    def prefetch(self, decision: RouteDecision) -> None:
        """Have the router's second choice read from the disk, which the next prompt may want.

        That happens beside the caller's own work.
        """
        if decision.runner_up is not None:
            self._ahead.submit(self._fetch, decision.runner_up)

    def close(self) -> None:
        """Let nothing be read any more."""
        self._ahead.shutdown(cancel_futures=True)

    def _fetch(self, name: str) -> None:
        try:
            self._cache.prefetch(self._shelf.find(name).expert_id)
        except AdaptiveMoEError as error:  # whoever asks for it will be told
            logger.debug("expert %s was not read ahead: %s", name, error)

    def _decide(
        self, evidence: Evidence, request: Request, broken: tuple[str, ...]
    ) -> RouteDecision:
        forced = request.experts
        notes = tuple(f"expert {name} is corrupt and was quarantined" for name in broken)
        if forced is None or forced == "auto":
            arms = self._shelf.arms() if request.arms is None else request.arms
            if broken:
                arms = tuple(arm for arm in arms if arm.name not in broken)
            decision = self.router.decide(evidence, arms, forced=forced)
            return replace(decision, reasons=(*notes, *decision.reasons))
        decision = self.router.decide(evidence, (), forced=None)
        experts = self._shelf.require([name for name in forced if name not in broken])
        if not experts:
            return replace(decision, forced=True, reasons=(*notes, *decision.reasons))
        return replace(
            decision,
            kind="experts",
            experts=tuple((each.name, each.version, 1 / len(experts)) for each in experts),
            low_confidence=False,
            forced=True,
            reasons=(*notes, "the caller chose the route"),
        )

    def _prepare(self, decision: RouteDecision) -> tuple[Mixture, str | None]:
        """Bring the chosen experts onto the device; the name of one that turned out corrupt."""
        mixture: list[tuple[str, float]] = []
        for name, _, gate in decision.experts:
            expert = self._shelf.find(name)
            try:
                with self._cache.hold([expert.expert_id]):
                    mixture.append((expert.expert_id, gate))
            except CorruptExpertError as error:
                self._shelf.quarantine(expert.expert_id, str(error))
                return (), name
        return self._rule.gates(mixture), None

    def _as_mixed(self, decision: RouteDecision, mixture: Mixture) -> RouteDecision:
        """The decision with those experts that the rule lets answer, in its order and gates."""
        order = [self._shelf.find(name).expert_id for name, _, _ in decision.experts]
        places = [order.index(expert_id) for expert_id, _ in mixture]
        experts = tuple(
            (*decision.experts[place][:2], gate)
            for place, (_, gate) in zip(places, mixture, strict=True)
        )
        expected = tuple(decision.expected[place] for place in places if decision.expected)
        return replace(decision, experts=experts, expected=expected)

    def _check_kinds(self, decision: RouteDecision, mixture: Mixture) -> None:
        if len({self._shelf.activation(expert_id) for expert_id, _ in mixture}) > 1:
            names = ", ".join(name for name, _, _ in decision.experts)
            raise ConfigurationError(
                f"experts {names} cannot be mixed: some act on the whole prompt, some on the "
                "answer only; name experts of one kind"
            )

    def _numerics_notes(self, decision: RouteDecision) -> Iterator[str]:
        """A remark for each chosen expert whose base had another precision in training."""
        here = _precision(self._language_model.numerics.to_dict())
        for name, _, _ in decision.experts:
            then = _precision(self._shelf.find(name).numerics)
            if then and then != here:
                yield f"expert {name} was trained on this base in {then}, which runs in {here} now"


def _precision(numerics: Mapping[str, str | None]) -> str:
    dtype, quantization = numerics.get("dtype"), numerics.get("quantization")
    return f"{dtype} with {quantization}" if quantization else dtype or ""
