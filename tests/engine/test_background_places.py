"""Where the background lies is kept beside a router, and read anew where that does not fit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from adaptive_moe.config.settings import Settings, TrainingSettings
from adaptive_moe.engine.background_places import keep_places, outside_of, worded
from adaptive_moe.engine.guard import guard_pool
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


def test_the_same_base_in_another_precision_is_read_anew(base, kept, monkeypatch):
    monkeypatch.setattr(base[0], "numerics", replace(base[0].numerics, dtype="bfloat16"))
    asked = []
    forward = base[0].model.forward
    monkeypatch.setattr(
        base[0].model, "forward", lambda *a, **k: (asked.append(a), forward(*a, **k))[1]
    )
    outside_of(TEXTS, *base, folder=kept)
    assert asked


def test_a_file_that_was_cut_is_read_anew(base, kept, tmp_path):
    (original,) = kept.iterdir()
    (tmp_path / original.name).write_bytes(original.read_bytes()[:-100])
    assert same(outside_of(TEXTS, *base, folder=tmp_path), outside_of(TEXTS, *base, folder=kept))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda mean, projection, places: (mean, projection, places[:-1]),
        lambda mean, projection, places: (mean, projection, places[:, :-1]),
        lambda mean, projection, places: (mean[:-1], projection[:-1], places),
        lambda mean, projection, places: (mean, projection[:, :0], places[:, :0]),
        lambda mean, projection, places: (mean, projection[:, 0], places[:, 0]),
        lambda mean, projection, places: (mean, projection, places * np.float16("nan")),
        lambda mean, projection, places: (mean, projection, places.astype(float) + 1e300),
    ],
)
def test_numbers_that_cannot_be_places_are_read_anew(base, kept, tmp_path, spoil):
    """Even if they are what was written."""
    (original,) = kept.iterdir()
    with safe_open(original, framework="numpy") as file:
        origin = file.metadata()["of"]
    names = ("mean", "projection", "places")
    arrays = read_arrays(original, of=origin)
    spoilt = [np.ascontiguousarray(each) for each in spoil(*(arrays[name] for name in names))]
    keep_arrays(tmp_path / original.name, dict(zip(names, spoilt, strict=True)), of=origin)
    assert same(outside_of(TEXTS, *base, folder=tmp_path), outside_of(TEXTS, *base, folder=kept))


def test_types_that_numpy_lacks_are_read_anew(base, kept, tmp_path, caplog):
    (original,) = kept.iterdir()
    tensors = {"places": torch.zeros(2, 2, dtype=torch.bfloat16)}
    with safe_open(original, framework="numpy") as file:
        save_file(tensors, tmp_path / original.name, metadata=file.metadata())
    assert same(outside_of(TEXTS, *base, folder=tmp_path), outside_of(TEXTS, *base, folder=kept))
    assert f"{tmp_path / original.name} is made anew" in caplog.text


def test_too_few_to_share_axes_are_not_kept_and_nothing_of_others_is(base, kept, tmp_path):
    (original,) = kept.iterdir()
    shutil.copy(original, tmp_path)
    keep_places(tmp_path, TEXTS[:100], *base)
    assert list(tmp_path.iterdir()) == []
    assert outside_of(TEXTS[:100], *base, folder=tmp_path).axes is None


def test_every_other_question_comes_in_a_loose_wording_too():
    questions = [GradedQuestion(text, "x", None, text) for text in TEXTS]
    texts = worded(questions)
    assert texts[:300] == TEXTS
    assert len(texts) == 450
    assert texts == worded(questions)


@pytest.mark.parametrize("guard_prompts", [20, 1500])
def test_no_training_on_the_pocket_model_reads_its_background(monkeypatch, guard_prompts, tmp_path):
    base = with_bank(load_base(Settings().base))
    monkeypatch.setattr(base[0].model, "forward", lambda *_, **__: pytest.fail("read"))
    settings = Settings(training=TrainingSettings(guard_prompts=guard_prompts))
    pool = guard_pool(*base, router=settings.router, training=settings.training, folder=tmp_path)
    assert len(pool.background.prompts) == 4500
    assert len(pool.items) == min(2 * guard_prompts, 1600)


def test_what_came_with_the_pocket_model_is_where_it_reads_its_background():
    language_model, bank = with_bank(load_base(Settings().base))
    folder = model_path() / "router"
    questions = read_questions([folder / "background.jsonl"])
    texts = worded(questions)
    shipped = outside_of(texts, language_model, bank, folder=folder)
    few = slice(0, None, 500)
    read = outside_of(texts[few], language_model, bank, folder=None)
    assert read.axes is None
    found = shipped.axes.places(read.prompts.states)
    assert np.abs(found - shipped.prompts.states[few]).max() < 0.02
