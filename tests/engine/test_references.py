"""A base's own samples are made once, kept whole, and made anew where they cannot be read."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from adaptive_moe.engine.references import references, sampled_questions
from adaptive_moe.experts.bank import LoraBank
from tests.support.tiny_models import tiny_language_model


@pytest.fixture(scope="module")
def base():
    language_model = tiny_language_model("llama")
    bank = LoraBank(
        language_model.model, language_model.layers, capacity_bytes=1 << 20, dtype=torch.float32
    )
    return language_model, bank


def same(first, second):
    return (
        np.array_equal(first.states, second.states)
        and first.first_token_entropy == second.first_token_entropy
        and first.mean_entropy == second.mean_entropy
    )


def test_they_are_made_once(base, tmp_path, monkeypatch):
    made = references(*base, folder=tmp_path / "cache")
    assert len(made.states) == len(made.mean_entropy) > 32
    monkeypatch.setattr(base[0].model, "forward", lambda *_, **__: pytest.fail("asked again"))
    assert same(references(*base, folder=tmp_path / "cache"), made)


@pytest.mark.parametrize("damage", [b"", b"no tensors", None])
def test_a_damaged_file_is_told_and_made_anew(base, tmp_path, caplog, damage):
    made = references(*base, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    assert same(references(*base, folder=tmp_path), made)
    assert f"{file} is made anew" in caplog.text
    assert same(references(*base, folder=tmp_path), made)


def test_numbers_that_were_not_written_are_made_anew(base, tmp_path, caplog):
    made = references(*base, folder=tmp_path)
    (file,) = tmp_path.iterdir()
    arrays = load_file(file)
    arrays["first_token_entropy"][0] = np.nan
    save_file(arrays, file)
    assert same(references(*base, folder=tmp_path), made)
    assert f"{file} is made anew" in caplog.text


def test_damaged_questions_are_told_and_made_anew(base, tmp_path, caplog):
    made = sampled_questions(*base, folder=tmp_path, count=8)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-20])
    assert sampled_questions(*base, folder=tmp_path, count=8) == made
    assert f"{file} is made anew" in caplog.text


def test_where_nothing_can_be_kept_they_are_made_all_the_same(base, tmp_path, caplog):
    (tmp_path / "taken").write_text("a file where the folder should be")
    assert len(references(*base, folder=tmp_path / "taken").states) > 32
    assert "cannot be kept" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["taken"]
