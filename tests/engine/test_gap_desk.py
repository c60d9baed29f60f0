"""Gaps through the public door: whose answer is judged, and what the worker does by itself."""

import copy
import gc
import pickle
from dataclasses import replace

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.errors import GapError
from adaptive_moe.gaps.states import GapState
from adaptive_moe.training import documents
from tests.flows.lighthouses import ISLES, settings, write_material

QUESTIONS = [f"Which keeper does {light} have?" for light in ISLES]


def judged_wrong(gap):
    return {member.prompt for member in gap.members if member.correct is False}


def test_feedback_finds_the_prompt_of_every_copy_and_after_the_answer_is_gone(tmp_path):
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        answers = moe.generate(QUESTIONS[:4])
        copies = [
            copy.copy(answers[0]),
            copy.deepcopy(answers[1]),
            replace(answers[2], text="another text"),
            pickle.loads(pickle.dumps(answers[3])),  # noqa: S301
        ]
        del answers
        gc.collect()
        for place, each in enumerate(copies):
            gap = moe.gaps.feedback(each, correct=False)
            assert judged_wrong(gap) == set(QUESTIONS[: place + 1])
        assert copies[0].to_dict()["observation"] == copies[0].observation


def test_feedback_outlasts_the_session_but_does_not_cross_to_another_store(tmp_path):
    with AdaptiveMoE.from_settings(settings(tmp_path / "one")) as moe:
        answer = moe.generate(QUESTIONS[0])
    with AdaptiveMoE.from_settings(settings(tmp_path / "two")) as moe:
        moe.generate(QUESTIONS[1])
        for unknown in (answer.observation, None, "7", "x-7", f"x-{10**30}"):
            with pytest.raises(GapError, match="gap ledger"):
                moe.gaps.feedback(replace(answer, observation=unknown), correct=False)
    with AdaptiveMoE.from_settings(settings(tmp_path / "one")) as moe:
        assert judged_wrong(moe.gaps.feedback(answer, correct=False)) == {QUESTIONS[0]}


def test_unusable_material_is_named_with_its_reason_and_the_gap_stays(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"frage": "a"}\n')
    (tmp_path / "other.md").write_text("# Bread\n\nThe baker of bread is called Anna.\n")
    data = [tmp_path / name for name in ("absent.md", "rows.jsonl", "other.md")]
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        gap = moe.gaps.feedback(moe.generate(QUESTIONS[0]), correct=False)
        for act in (moe.gaps.fill, moe.gaps.estimate):
            with pytest.raises(GapError, match="2 of the material's files cannot be used") as told:
                act(gap.id, data)
            assert f"{tmp_path / 'absent.md'}: there is no such file" in str(told.value)
            assert "rows.jsonl, row 1: no known keys" in str(told.value)
            assert "says nothing about 1 of 1 prompts" in str(told.value)
        assert moe.gaps.show(gap.id).state is gap.state


def test_an_empty_folder_is_no_material(tmp_path):
    (tmp_path / "nothing").mkdir()
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        gap = moe.gaps.feedback(moe.generate(QUESTIONS[0]), correct=False)
        with pytest.raises(GapError, match=r"nothing: the folder holds no .* file"):
            moe.gaps.fill(gap.id, [tmp_path / "nothing"])


def test_what_is_no_material_in_a_folder_is_not_complained_about(tmp_path):
    material = write_material(tmp_path / "material")
    (material / "lighthouses.md").write_text("# Bread\n\nThe baker of bread is called Anna.\n")
    (material / "picture.png").write_bytes(b"\x89PNG")
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        gap = moe.gaps.feedback(moe.generate(QUESTIONS[0]), correct=False)
        with pytest.raises(GapError, match=r"^the material says nothing about 1 of 1"):
            moe.gaps.fill(gap.id, [material])


def test_an_unforeseen_error_in_training_rejects_the_gap_and_is_raised(tmp_path, monkeypatch):
    readings = []

    def read(path, file):
        readings.append(path)
        if len(readings) > 1:
            raise ZeroDivisionError("an odd file")
        return documents.split_markdown(path.read_text(), file=file)

    monkeypatch.setitem(documents.READERS, ".md", read)
    material = write_material(tmp_path / "material")
    with AdaptiveMoE.from_settings(settings(tmp_path)) as moe:
        gap = moe.gaps.feedback(moe.generate(QUESTIONS[0]), correct=False)
        with pytest.raises(ZeroDivisionError):
            moe.gaps.fill(gap.id, [material])
        gap = moe.gaps.show(gap.id)
    assert gap.state is GapState.REJECTED
    assert gap.reason == "ZeroDivisionError: an odd file"
