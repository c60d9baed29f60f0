"""With base.compile the pocket model answers as without it."""

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings

QUESTIONS = ["What is the capital of France?", "What is the opposite of hot?", "hello"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("compilable")
def test_compiled_answers_are_those_of_eager_passes(tmp_path):
    found = {}
    for compiled in (False, True):
        overrides = [f"store={tmp_path / 'store'}", f"base.compile={compiled}"]
        with AdaptiveMoE.from_settings(load_settings(overrides=overrides)) as moe:
            found[compiled] = [moe.generate(QUESTIONS), [moe.generate(QUESTIONS[0])]]
    for eager, quick in zip(*found.values(), strict=True):
        assert [answer.text for answer in quick] == [answer.text for answer in eager]
        for mine, other in zip(quick, eager, strict=True):
            assert mine.confidence.p_correct == pytest.approx(other.confidence.p_correct, abs=1e-4)
