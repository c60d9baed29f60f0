"""What a gap would cost is told from the past of the store."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.outlook import outlook
from adaptive_moe.experts.store import Store
from adaptive_moe.gaps.detector import GapDetector
from adaptive_moe.gaps.evidence import Observation
from adaptive_moe.gaps.ledger import GapLedger
from adaptive_moe.gaps.states import GapState
from tests.experts.published import fill, manifest_of


@pytest.fixture
def gaps():
    """Two gaps, of which one was filled within six minutes."""
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    with GapLedger(":memory:", clock=lambda: now[0]) as ledger:
        detector = GapDetector(ledger, Settings().gaps)
        for domain in ("first", "second"):
            prompt = f"Who keeps the {domain} lamp?"
            detector.observe(Observation(prompt, "?", 0.1, True, domain, np.ones(4), "s"))
        (first, _) = detector.list()
        detector.transition(first.id, GapState.QUEUED, "asked for", by_person=True)
        detector.transition(first.id, GapState.TRAINING, "started")
        now[0] += timedelta(minutes=4)
        detector.transition(first.id, GapState.EVALUATING, "trained")
        now[0] += timedelta(minutes=2)
        detector.transition(first.id, GapState.FILLED, "passed", expert="first")
        yield detector.list()


def test_earlier_fillings_and_trainings_of_this_base_are_told(gaps, tmp_path):
    with Store(tmp_path / "store") as store:
        for name, steps in (("first", 160), ("imported", None)):
            training = {} if steps is None else {"steps": steps}
            manifest = manifest_of().model_copy(update={"training": training})
            with store.stage() as folder:
                fill(folder, b"12345")
                store.publish(name, folder, manifest, status="active")
        found, other = (
            outlook(gaps[1], Settings(), gaps=gaps, records=store.list(), base_id=base)
            for base in ("sha256:0", "sha256:1")
        )
    assert found.cost.minutes == (6.0,)
    assert found.cost.usual_minutes == 6.0
    assert [(each.name, each.version, each.steps) for each in found.cost.trainings] == [
        ("first", 1, 160)
    ]
    assert found.cost.trainings[0].bytes == len(b"12345") + len("{}")
    assert other.cost.trainings == ()
    assert found.cost.most_steps == 400
    assert found.cost.estimate_with == f"adaptive-moe gaps fill {gaps[1].id} --dry-run"
