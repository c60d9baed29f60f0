"""Where the background lies is kept beside a router, and read anew where that does not fit."""

import numpy as np
import pytest
import torch

from adaptive_moe.config.settings import Settings
from adaptive_moe.engine.background_places import keep_places, outside_of, worded
from adaptive_moe.engine.kept_arrays import keep_arrays, read_arrays
from adaptive_moe.engine.question_files import GradedQuestion, read_questions
from adaptive_moe.experts.bank import LoraBank
from adaptive_moe.models.loading import load_base
from adaptive_moe.pocket import model_path
from tests.support.tiny_models import tiny_language_model

TEXTS = tuple(f"what is {a} {b}" for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmno")


def with_bank(language_model):
    bank = LoraBank(
        language_model.model, language_model.layers, capacity_bytes=1 << 20, dtype=torch.float32
    )
    return language_model, bank


@pytest.fixture(scope="module")
def base():
    return with_bank(tiny_language_model("llama"))


@pytest.fixture(scope="module")
def kept(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    keep_places(folder, TEXTS, *base)
    return folder


def same(first, second):
    pairs = (
        (first.prompts.states, second.prompts.states),
        (first.axes.mean, second.axes.mean),
        (first.axes.projection, second.axes.projection),
    )
    assert first.prompts.texts == second.prompts.texts
    return all(np.array_equal(*pair) for pair in pairs)


def test_what_is_kept_is_what_would_be_read(base, kept, monkeypatch):
    read = outside_of(TEXTS, *base, folder=None)
    assert len(read.prompts) == 300
    monkeypatch.setattr(base[0].model, "forward", lambda *_, **__: pytest.fail("read again"))
    assert same(outside_of(TEXTS, *base, folder=kept), read)


def test_other_texts_and_other_bases_are_read_anew(base, kept):
    others = (*TEXTS[:-1], "something else")
    assert same(outside_of(others, *base, folder=kept), outside_of(others, *base, folder=None))
    other = with_bank(tiny_language_model("qwen2"))
    assert same(outside_of(TEXTS, *other, folder=kept), outside_of(TEXTS, *other, folder=None))


@pytest.mark.parametrize("damage", ["cut", "other shape", "not a number"])
def test_a_file_that_is_none_of_ours_is_read_anew(base, kept, tmp_path, damage):
    (original,) = kept.iterdir()
    file = tmp_path / original.name
    if damage == "cut":
        file.write_bytes(original.read_bytes()[:-100])
    else:
        origin = _origin(original)
        arrays = read_arrays(original, of=origin)
        places = arrays["places"]
        spoilt = places[:-1] if damage == "other shape" else np.full_like(places, np.nan)
        keep_arrays(file, arrays | {"places": spoilt}, of=origin)
    assert same(outside_of(TEXTS, *base, folder=tmp_path), outside_of(TEXTS, *base, folder=kept))


def _origin(file):
    from safetensors import safe_open

    with safe_open(file, framework="numpy") as kept:
        return kept.metadata()["of"]


def test_too_few_to_share_axes_are_not_kept(base, tmp_path):
    keep_places(tmp_path, TEXTS[:100], *base)
    assert list(tmp_path.iterdir()) == []
    assert outside_of(TEXTS[:100], *base, folder=tmp_path).axes is None


def test_every_other_question_comes_in_a_loose_wording_too():
    questions = [GradedQuestion(text, "x", None, text) for text in TEXTS]
    texts = worded(questions, most=100)
    assert texts[:100] == TEXTS[::3]
    assert len(texts) == 150
    assert texts == worded(questions, most=100)


def test_what_came_with_the_pocket_model_is_where_it_reads_its_background():
    language_model, bank = with_bank(load_base(Settings().base))
    folder = model_path() / "router"
    questions = read_questions([folder / "background.jsonl"])
    texts = worded(questions, most=len(questions))
    shipped = outside_of(texts, language_model, bank, folder=folder)
    few = slice(0, None, 500)
    read = outside_of(texts[few], language_model, bank, folder=None)
    assert read.axes is None
    found = shipped.axes.places(read.prompts.states)
    assert np.abs(found - shipped.prompts.states[few]).max() < 0.02
