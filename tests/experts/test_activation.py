"""Only what is active or in quarantine may be activated, and no reason is lost."""

from pathlib import Path

import pytest

from adaptive_moe.errors import ExpertError
from adaptive_moe.experts.store import Store
from tests.experts.published import NOW, publish


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store(tmp_path / "experts", clock=lambda: NOW) as store:
        yield store


def test_what_the_gate_rejected_cannot_be_activated(store: Store) -> None:
    serving = publish(store, content=b"one")
    rejected = publish(store, content=b"two", status="rejected", reason="no gain")
    for _ in ("as published", "found damaged, and mended"):
        with pytest.raises(ExpertError, match=r"rejected by the gate: no gain; train .* --force"):
            store.activate(rejected.expert_id)
        store.quarantine(rejected.expert_id, "its file was changed")
    assert store.get("chemistry") == serving
    assert store.get("chemistry", version=2) == rejected


def test_a_removed_expert_cannot_be_activated(store: Store) -> None:
    record = publish(store)
    store.remove("chemistry")
    with pytest.raises(ExpertError, match="was removed; train or import it again"):
        store.activate(record.expert_id)
    assert store.active() == ()


def test_equal_content_is_activated_where_it_may_be(store: Store) -> None:
    first = publish(store, status="rejected", reason="no gain")
    forced = publish(store, status="quarantine", reason="no gain")
    publish(store, "alias", status="quarantine")
    assert first.expert_id == forced.expert_id
    with pytest.raises(ExpertError, match="version 1 was rejected"):
        store.activate(first.expert_id, name="chemistry", version=1)
    served = store.activate(first.expert_id, name="chemistry")
    assert (served.name, served.version) == ("chemistry", 2)
    assert served.reason == "activated out of quarantine; before: no gain"
    assert [record.name for record in store.active()] == ["chemistry"]
