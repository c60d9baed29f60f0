"""Material that exceeds the model's context is cut, or dropped and told, and stops no training."""

import json

import pytest

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import DataError, PromptTooLongError
from adaptive_moe.integration.sources import read_rows
from adaptive_moe.training.stages import read_stages
from tests.support.tiny_models import CONTEXT, save_tiny

SHORT = [{"prompt": f"What is the colour of {n}?", "response": f"blue {n}"} for n in range(40)]
LONG = [
    {"prompt": " ".join(f"word{n}x{place}" for place in range(300)), "response": f"red {n}"}
    for n in range(8)
]
LENGTHY = LONG[0]["prompt"]  # some thousand tokens
HOPELESS = {"prompt": "What are all the words?", "response": LENGTHY}
CUT_LINES = tuple(range(41, 49))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*SHORT, *LONG, HOPELESS]))
    return path


@pytest.fixture
def open_runtime(tmp_path):
    general = tmp_path / "general.txt"
    general.write_text("\n\n".join(f"It is day {n}. The sun shines." for n in range(8)))

    def opened(*guard):
        file = tmp_path / "guard.jsonl"
        questions = [{"prompt": each, "answer": "x"} for each in guard]
        file.write_text("".join(json.dumps(each) + "\n" for each in questions))
        overrides = [
            f"base.id={save_tiny('llama', tmp_path / 'model')}",
            f"store={tmp_path / 'store'}",
            "training.max_steps=1",
            f"training.guard={file}",
            "training.guard_prompts=2",
            f"training.general_text={general}",
            "training.held_out_fraction=0.6",
            "training.rank=2",
        ]
        return AdaptiveMoE.from_settings(load_settings(overrides=overrides))

    return opened


def test_a_training_on_too_long_rows_ends_and_tells_them(open_runtime, file):
    with open_runtime("1?", "2?") as moe:
        prepared = moe.prepare_expert([file])
        outcome = moe.train_expert("words", prepared, force=True)
        with pytest.raises(PromptTooLongError):  # who asks is told so as ever
            moe.generate(LONG[0]["prompt"], max_new_tokens=1)

    ((place, line, reason),) = outcome.dropped
    assert (place, line) == ("rows.jsonl", 49)
    assert reason.endswith(f"tokens of the context's {CONTEXT}")
    assert tuple(line for _, line, _ in outcome.cut) == CUT_LINES
    assert "of its prompt fit the context" in outcome.cut[0][2]
    assert [row[1] for row in outcome.to_dict()["cut"]] == list(CUT_LINES)

    (stage,) = [one for one in read_stages(outcome.record.folder) if one.name == "encoding"]
    assert stage.entered == {"rows": 49, "examples": 0}
    assert stage.left == {"rows": 48, "examples": 0, "cut prompts": 8}
    assert stage.dropped == {"the answer takes N tokens of the context's N": 1}
    data = outcome.record.manifest.data
    assert (data["rows"], data["dropped"], data["cut"]) == (48, 1, 8)

    sides = [prepared.split.train, prepared.split.selection, prepared.split.held_out]
    assert {each.line for side in sides for each in side} == set(range(1, 49))
    assert any(each.line in CUT_LINES for each in prepared.split.held_out)
    assert outcome.report.held_out.examples == len(prepared.split.held_out)
    asked = outcome.report.routed.questions
    assert asked == sum(each.line not in CUT_LINES for each in prepared.split.held_out)
    taught = {row.line for row in read_rows(outcome.record.folder)}
    assert taught == {each.line for each in prepared.split.train}


def test_a_too_long_guard_question_is_told_before_the_training(open_runtime, file):
    steps = []
    with (
        open_runtime("1?", LENGTHY) as moe,
        pytest.raises(DataError, match=r"guard\.jsonl:2: this question and an answer exceed"),
    ):
        moe.train_expert("words", [file], listener=steps.append)
    assert steps == []
