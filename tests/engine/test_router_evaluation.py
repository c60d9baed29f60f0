"""Mistakes about an evaluation are told before the base answers hundreds of questions."""

import json
import sys

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.errors import ConfigurationError, RouterError
from tests.support.tiny_models import save_tiny

CITIES = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid"}


def never(answer, reference):
    pytest.fail("an answer was graded")


@pytest.fixture(scope="module")
def moe(tmp_path_factory):
    with AdaptiveMoE.from_pretrained(store=tmp_path_factory.mktemp("home") / "store") as runtime:
        yield runtime


@pytest.fixture
def asked(tmp_path):
    rows = [
        {"prompt": f"What is the capital of {country}?", "answer": city, "source": country}
        for country, city in CITIES.items()
    ]
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_training_questions_cannot_measure(moe, asked):
    with pytest.raises(RouterError, match="3 sources stand in both training and test, 'France'"):
        moe.router.evaluate(asked, training=asked, grader=never)


def test_plots_that_cannot_be_drawn_are_told_first(moe, asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigurationError, match=r"adaptive_moe\[plots\]"):
        moe.router.evaluate(asked, plots=asked.parent / "plots", grader=never)


def test_an_untrained_router_has_nothing_to_measure(asked, tmp_path):
    with (
        AdaptiveMoE.from_pretrained(
            save_tiny("llama", tmp_path / "model"), store=tmp_path / "store"
        ) as other,
        pytest.raises(RouterError, match="fit it first"),
    ):
        other.router.evaluate(asked, grader=never)
