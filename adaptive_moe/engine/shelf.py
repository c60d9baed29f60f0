"""The experts of a store as the router and the user see them: by name, with domain and success."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import final

import numpy as np
from jaxtyping import Float

from adaptive_moe.engine.events import RoutedExpert
from adaptive_moe.engine.expert import Activation, Expert, Trial
from adaptive_moe.engine.states import StateReader
from adaptive_moe.engine.verdicts import Verdicts, cluster_of
from adaptive_moe.errors import BaseMismatchError, CorruptExpertError, RouterError, StoreError
from adaptive_moe.experts.adapter_files import read_adapter, read_published
from adaptive_moe.experts.store import ExpertRecord, Store
from adaptive_moe.experts.weights import LoraWeights
from adaptive_moe.gaps.evidence import Part
from adaptive_moe.integration.sources import (
    ROWS_FILE,
    VECTORS_FILE,
    SourceRow,
    TrainingRow,
    nearest,
    read_rows,
)
from adaptive_moe.measures.sampling import evenly
from adaptive_moe.router.domains import Domain, fit_domain, read_domain
from adaptive_moe.router.router import ExpertArm
from adaptive_moe.router.whitening import Whitening

DOMAIN_FILE = "domain.safetensors"
HELD_OUT_RIGHT = "held_out_right"
HELD_OUT_TRIALS = "held_out_trials"
HELD_OUT_BASE = "held_out_base_right"
_ASKED_OF_EACH, _ASKED_AT_MOST = 512, 4096  # rows of other experts that a boundary is drawn against
_ROUTED_BY = frozenset({DOMAIN_FILE, ROWS_FILE, VECTORS_FILE})  # files checked before any is used
_MOST_BYTES = 1 << 30  # of each
_NO_RECORD = 0.5  # success rate of an expert that was never tried: the mean of Beta(1, 1)

__all__ = ["Activation", "Expert", "ExpertShelf", "Trial"]

logger = logging.getLogger(__name__)


@final
class ExpertShelf(Mapping[str, Expert]):
    """The active experts that fit this base, read again whenever the store's index changes."""

    def __init__(
        self, store: Store, *, base_id: str, whitening: Whitening, states: StateReader
    ) -> None:
        self._store = store
        self._base_id = base_id
        self._states = states
        self._stamp: object = None
        self._experts: dict[str, Expert] = {}
        self._by_id: dict[str, Expert] = {}
        self._trials: dict[str, Trial] = {}
        self._out_of_service: dict[str, Expert] = {}
        self._domains: dict[str, Domain | None] = {}
        self._moved: set[str] = set()
        self._refused: set[str] = set()
        self._known_arms: tuple[object, tuple[ExpertArm, ...]] = (None, ())
        self.verdicts = Verdicts()
        self._when_gone: Callable[[str, str | None], None] = lambda *_: None
        self.whitening = whitening

    def __getitem__(self, name: str) -> Expert:
        self._refresh()
        if name in self._experts:
            return self._experts[name]
        raise self._mismatch(self._store.get(name))

    def __contains__(self, name: object) -> bool:
        self._refresh()
        return name in self._experts

    def __iter__(self) -> Iterator[str]:
        self._refresh()
        return iter(tuple(self._experts))

    def __len__(self) -> int:
        self._refresh()
        return len(self._experts)

    def when_gone(self, forget: Callable[[str, str | None], None]) -> None:
        """Call `forget` with the id of every expert that goes out of service or off trial.

        And with the id of the version that serves under its name from now on, if there is one.
        """
        self._when_gone = forget

    @contextmanager
    def on_trial(self, trial: Trial) -> Iterator[ExpertArm]:
        """Let the gate ask a trained expert under its name; the arm is for the gate's own use."""
        self._trials[trial.expert.name] = trial
        self._domains[trial.expert.expert_id] = trial.domain
        try:
            yield _arm(trial.expert, trial.domain)
        finally:
            del self._trials[trial.expert.name]
            self._forget(trial.expert.expert_id)

    @contextmanager
    def out_of_service(self, record: ExpertRecord) -> Iterator[str]:
        """Let a stored version be asked, by the name told, though it does not serve.

        Nobody is routed to it. Raises BaseMismatchError.
        """
        if record.manifest.base_id != self._base_id:
            raise self._mismatch(record)
        expert = Expert.of(record)
        name = f"{record.name} v{record.version}"
        self._out_of_service[name] = replace(expert, name=name)
        try:
            yield name
        finally:
            self._out_of_service.pop(name, None)
            if expert.expert_id not in self._by_id:
                self._forget(expert.expert_id)

    def find(self, name: str) -> Expert:
        """An active expert, one on trial or one that is asked out of service."""
        if name in self._trials:
            return self._trials[name].expert
        return self._out_of_service.get(name) or self[name]

    def require(self, names: Sequence[str]) -> tuple[Expert, ...]:
        """The named experts. Raises UnknownExpertError listing what there is."""
        return tuple(self.find(name) for name in names)

    def weights(self, expert_id: str) -> LoraWeights:
        """An expert's weights, checked while they are read. Raises CorruptExpertError."""
        for trial in self._trials.values():
            if trial.expert.expert_id == expert_id:
                return trial.weights
        record = self._store.by_id(expert_id)
        return read_adapter(record.folder, record.manifest)

    def activation(self, expert_id: str) -> Activation:
        """Where an expert begins to act: "answer" or "prompt"."""
        on_trial = {trial.expert.expert_id: trial.expert for trial in self._trials.values()}
        expert = on_trial.get(expert_id) or self._by_id.get(expert_id)
        if expert is not None:
            return expert.activation
        return self._store.by_id(expert_id).manifest.activation

    def arms(self) -> tuple[ExpertArm, ...]:
        """The experts that automatic routing may choose, with their domains and success.

        The same tuple as long as nothing changes, so that whoever indexed it need not compare.
        """
        self._refresh()
        made_of = (self.whitening.digest, self.verdicts.lessons)
        known, arms = self._known_arms
        if known != made_of:
            arms = self._arms(self._experts.values())
            self._known_arms = (made_of, arms)
        return arms

    def parts(self, routed: Iterable[RoutedExpert], point: np.ndarray) -> tuple[Part, ...]:
        """The versions that answered and serve still, with their gates and the prompt's clusters.

        `point` is the prompt's whitened state. Experts without a domain keep no record.
        """
        self._refresh()
        found = []
        for each in routed:
            expert = self._experts.get(each.name)
            if expert is None or expert.version != each.version:
                continue
            domain = self._domains.get(expert.expert_id)
            if domain is not None and domain.whitening_digest == self.whitening.digest:
                found.append(Part(expert.expert_id, each.gate, cluster_of(domain, point)))
        return tuple(found)

    def taught(self, *, besides: str) -> tuple[str, ...]:
        """What the active experts were asked in training, but for one; evenly from each."""
        self._refresh()
        others = [each for each in self._experts.values() if each.name != besides]
        share = min(_ASKED_OF_EACH, _ASKED_AT_MOST // max(1, len(others)))
        rows = (row for each in others for row in evenly(self._rows(each), share))
        return tuple(row.question for row in rows)

    def questions(self, expert: Expert) -> tuple[str, ...]:
        """Everything that an expert was asked in training; nothing of an imported one."""
        return tuple(row.question for row in self._rows(expert))

    def records(self, names: Sequence[str]) -> tuple[float, ...]:
        """Success rates of experts that just answered; even odds for one without a domain."""
        arms = {arm.name: arm.success_rate for arm in self._arms([self.find(n) for n in names])}
        return tuple(arms.get(name, _NO_RECORD) for name in names)

    def sources(
        self,
        expert: Expert,
        state: Float[np.ndarray, " state"],
        *,
        answer: str,
        count: int = 3,
    ) -> tuple[SourceRow, ...]:
        """The training rows nearest to a prompt, those that teach the answer first.

        None for experts that keep no rows, or whose rows lie in an earlier router's state space.
        An expert whose rows are damaged is quarantined.
        """
        if not (expert.folder / ROWS_FILE).exists() or expert.expert_id in self._moved:
            return ()
        try:
            return nearest(expert.folder, self.whitening.apply(state), count, answer=answer)
        except CorruptExpertError as error:
            self.quarantine(expert.expert_id, str(error))
            return ()

    def quarantine(self, expert_id: str, reason: str) -> None:
        """Take an expert out of service; the store remembers why, if it can be written."""
        logger.warning("expert %s is quarantined: %s", expert_id[:12], reason)
        try:
            self._store.quarantine(expert_id, reason)
        except StoreError as error:
            logger.warning("out of service in this process alone: %s", error)
            self._refused.add(expert_id)
        self._stamp = None

    def _mismatch(self, record: ExpertRecord) -> BaseMismatchError:
        return BaseMismatchError(
            f"expert {record.name!r} was trained on base {record.manifest.base_id[:19]}, this "
            f"model is {self._base_id[:19]}; retrain it or load the other base"
        )

    def _refresh(self) -> None:
        stamp = self._store.change_stamp()
        if stamp == self._stamp:
            return
        self._stamp, self._known_arms = stamp, (None, ())
        before = self._by_id
        self._experts = {
            record.name: Expert.of(record)
            for record in self._store.active()
            if record.manifest.base_id == self._base_id and record.expert_id not in self._refused
        }
        self._by_id = {expert.expert_id: expert for expert in self._experts.values()}
        for expert_id in before.keys() - self._by_id.keys():
            successor = self._experts.get(before[expert_id].name)
            self._forget(expert_id, None if successor is None else successor.expert_id)

    def _rows(self, expert: Expert) -> list[TrainingRow]:
        """What the expert was taught; nothing, and quarantine, where that is damaged."""
        if not (expert.folder / ROWS_FILE).exists():
            return []
        try:
            return list(read_rows(expert.folder))
        except CorruptExpertError as error:
            self.quarantine(expert.expert_id, str(error))
            return []

    def _forget(self, expert_id: str, successor: str | None = None) -> None:
        """Keep nothing of an expert that is out of service."""
        self._domains.pop(expert_id, None)
        self._moved.discard(expert_id)
        self._when_gone(expert_id, successor)

    def _arms(self, experts: Iterable[Expert]) -> tuple[ExpertArm, ...]:
        found = ((expert, self._domain(expert)) for expert in experts)
        return tuple(
            _arm(expert, domain, self.verdicts.of(expert.expert_id, domain))
            for expert, domain in found
            if domain is not None
        )

    def _domain(self, expert: Expert) -> Domain | None:
        """The expert's domain; placed anew when the router's state space is another one."""
        domain = self._domains.get(expert.expert_id)
        if domain is None or domain.whitening_digest != self.whitening.digest:
            domain = self._domains[expert.expert_id] = self._read_domain(expert)
        return domain

    def _read_domain(self, expert: Expert) -> Domain | None:
        manifest = self._store.by_id(expert.expert_id).manifest
        if DOMAIN_FILE not in manifest.files:
            return None
        try:
            for name in _ROUTED_BY.intersection(manifest.files):
                read_published(expert.folder, name, manifest, cap_bytes=_MOST_BYTES)
            domain = read_domain(expert.folder / DOMAIN_FILE)
        except (CorruptExpertError, RouterError) as error:
            self.quarantine(expert.expert_id, str(error))
            return None
        if domain.whitening_digest == self.whitening.digest:
            return domain
        logger.info("placing expert %s in the router's new state space", expert.name)
        self._moved.add(expert.expert_id)
        questions = [row.question for row in self._rows(expert)]
        placed = fit_domain(domain.label, self._states(questions), self.whitening, seed=0)
        return replace(placed, boundary=domain.boundary)


def _arm(expert: Expert, domain: Domain, judged: tuple[tuple[float, float], ...] = ()) -> ExpertArm:
    """One expert as the router weighs it: its record on held-out questions, and since then."""
    right, trials = expert.gate.get(HELD_OUT_RIGHT), expert.gate.get(HELD_OUT_TRIALS)
    base = expert.gate.get(HELD_OUT_BASE)
    return ExpertArm(
        name=expert.name,
        version=expert.version,
        expert_id=expert.expert_id,
        domain=domain,
        successes=right if isinstance(right, int) else 0,
        trials=trials if isinstance(trials, int) else 0,
        created=expert.created,
        base_successes=base if isinstance(base, int) else None,
        judged=judged,
    )
