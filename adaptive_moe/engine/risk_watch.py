"""Takes a certified threshold back when judged answers, or where prompts lie, speak against it."""

import json
import logging
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import final

from adaptive_moe.config.settings import RouterSettings
from adaptive_moe.engine.answering import Answerer
from adaptive_moe.errors import StoreError
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.router.certificates import (
    Certificate,
    Void,
    void_by_errors,
    void_by_strangers,
)
from adaptive_moe.router.files import read_model
from adaptive_moe.router.router import Router
from adaptive_moe.router.thresholds import Threshold
from adaptive_moe.router.trust import Trust

logger = logging.getLogger(__name__)

_LEAST_UNSEEN = 32  # answers between two looks at where prompts lie; later a tenth of all


@final
class RiskWatch:
    """Watches over the certificate of the router in service; threads may share it.

    The evidence is in the gap ledger, under the certificate's id, with that of earlier sessions and
    other processes. What another process took back is found at the next look.
    """

    def __init__(self, ledger: GapLedger, answerer: Answerer) -> None:
        self._ledger = ledger
        self._answerer = answerer
        self._lock = threading.RLock()
        self._known: Router | None = None  # whose certificate was looked up
        self._unseen, self._next_look = 0, _LEAST_UNSEEN

    @property
    def certificate(self) -> str | None:
        """The id of the promise under which the base answers now, None without one."""
        with self._lock:
            self._follow()
            held = _in_force(self._answerer.router)
            return None if held is None else held.id

    def judged(self) -> None:
        """Weigh what people said of trusted answers; for the start, and after every judgement."""
        with self._lock:
            self._follow(anew=True)
            held = _in_force(self._answerer.router)
            if held is not None:
                with self._ledger.reading():
                    judged, wrong = self._ledger.judgements.of_trusted(held.id, least=held.value)
                self._take_back(held, void_by_errors(held, judged=judged, wrong=wrong))

    def answered(self, count: int) -> None:
        """Now and then weigh where the prompts lie, when `count` more were answered."""
        with self._lock:
            self._unseen += count
            held = _in_force(self._answerer.router)
            if held is None or self._unseen < self._next_look:
                return
            with self._ledger.reading():
                prompts, far = self._ledger.judgements.far_prompts(held.id)
            self._unseen, self._next_look = 0, max(_LEAST_UNSEEN, prompts // 10)
            self._follow(anew=True)
            self._take_back(held, void_by_strangers(prompts=prompts, far=far))

    def _follow(self, *, anew: bool = False) -> None:
        """Of a router that is new here, look up whether its certificate was taken back."""
        router = self._answerer.router
        if router is self._known and not anew:
            return
        self._known = router
        held = _in_force(router)
        if held is not None:
            with self._ledger.reading():
                void = read_void(self._ledger, held)
            self._use(held, void)

    def _take_back(self, held: Certificate, void: Void | None) -> None:
        if void is None:
            return
        # Where the ledger can only be read, this process alone knows.
        with suppress(StoreError), self._ledger.transaction():
            self._ledger.judgements.take_back(held.id, why=json.dumps(asdict(void)))
        self._use(held, void)

    def _use(self, held: Certificate, void: Void | None) -> None:
        """Go on with the void certificate's stricter threshold, and say so, once."""
        router = self._answerer.router
        if void is None or _in_force(router) != held:
            return
        self._known = router.voided(void)
        self._answerer.use(self._known)
        logger.warning("the threshold is %s", self._known.threshold().explanation)


def read_void(ledger: GapLedger, certificate: Certificate) -> Void | None:
    """Why a certificate was taken back, None if it was not; inside a reading of the ledger."""
    why = ledger.judgements.void(certificate.id)
    return None if why is None else Void(**json.loads(why))


def stored_threshold(folder: Path, settings: RouterSettings, ledger: GapLedger) -> Threshold:
    """The threshold that a router on the disk goes by, as far as the ledger knows.

    Raises RouterError for a folder that holds no router.
    """
    model = read_model(folder)
    trust = Trust(model, settings)
    void = None
    if trust.certificate is not None:
        with ledger.reading():
            void = read_void(ledger, trust.certificate)
    return trust.answer if void is None else Trust(model, settings, void=void).answer


def _in_force(router: Router) -> Certificate | None:
    return router.certificate if router.threshold().void is None else None
