"""Every shipped pack teaches the pocket model what it does not know, and costs next to nothing."""

import json
import random

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.measures.graders import exact
from adaptive_moe.pocket import load_questions, pack_names, pack_path
from adaptive_moe.pocket.asking import write_known_questions

AIM = 0.80
BATCH = 64
KNOWN = 300


def right(moe, pairs):
    """Whether the answer to each question is exactly right, whoever gave it."""
    questions = [question for question, _ in pairs]
    answers = [
        answer.text
        for start in range(0, len(questions), BATCH)
        for answer in moe.generate(questions[start : start + BATCH], attribution=False)
    ]
    return [exact(answer, wanted) for answer, (_, wanted) in zip(answers, pairs, strict=True)]


def known_questions(folder):
    """A sample of questions about facts that no router or threshold was fitted on."""
    file = folder / "known.jsonl"
    write_known_questions(file, splits=["test"])
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    sample = random.Random("known").sample(rows, KNOWN)  # noqa: S311  not for security
    return [(row["prompt"], row["answer"]) for row in sample]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("pack", pack_names())
def test_a_pack_is_learned_from_its_folder_and_nothing_known_is_lost(pack, tmp_path):
    asked = [(each.question, each.answer) for each in load_questions(pack)]
    known = known_questions(tmp_path)
    with AdaptiveMoE.from_settings(load_settings(overrides=[f"store={tmp_path / 's'}"])) as moe:
        before, known_before = right(moe, asked), right(moe, known)
        outcome = moe.train_expert(pack, pack_path(pack))
        after, known_after = right(moe, asked), right(moe, known)
    assert outcome.is_live, outcome.record.reason
    assert sum(before) <= 0.05 * len(asked)
    lost = sum(was and not is_ for was, is_ in zip(known_before, known_after, strict=True))
    assert sum(known_before) >= 0.5 * KNOWN, "too little is known to lose any of it"
    assert lost <= 0.01 * sum(known_before)
    assert sum(after) >= AIM * len(asked)
