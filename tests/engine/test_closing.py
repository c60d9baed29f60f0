"""A closed runtime says so at every door."""

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.errors import ClosedError

PLAIN = {"close", "from_pretrained", "from_settings", "language_model", "session", "settings"}


@pytest.fixture(scope="module")
def closed(tmp_path_factory):
    moe = AdaptiveMoE.from_pretrained(store=tmp_path_factory.mktemp("closing") / "store")
    doors = {name for name in {*dir(AdaptiveMoE), *vars(moe)} if not name.startswith("_")}
    moe.close()
    return moe, doors - PLAIN


def test_every_public_door_says_that_the_runtime_is_closed(closed):
    moe, doors = closed
    assert doors >= {"generate", "stream", "train_expert", "experts", "gaps", "router", "store"}
    for name in doors:
        with pytest.raises(ClosedError, match=r"^this runtime is closed; open a new one$"):
            getattr(moe, name)


def test_no_call_answers_or_lists_after_closing(closed):
    moe, _ = closed
    for call in (
        lambda: moe.generate("What is the capital of France?"),
        lambda: list(moe.stream("What is the capital of France?")),
        lambda: list(moe.experts),
        lambda: moe.gaps.list()[0],
    ):
        with pytest.raises(ClosedError, match="open a new one"):
            call()


def test_closing_twice_is_closing_once_and_leaves_the_model(closed):
    moe, _ = closed
    moe.close()
    assert moe.language_model.name == moe.settings.base.id == "pocket"


def test_a_stream_that_was_not_begun_says_so_too(tmp_path):
    with AdaptiveMoE.from_pretrained(store=tmp_path / "store") as moe:
        events = moe.stream("What is the capital of France?")
    with pytest.raises(ClosedError):
        next(events)
