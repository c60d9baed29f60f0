"""Gaps through the public door: whose answer is judged, and what the worker does by itself."""

import copy
import gc
import pickle
from dataclasses import replace

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.errors import GapError
from tests.flows.lighthouses import ISLES, settings

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
