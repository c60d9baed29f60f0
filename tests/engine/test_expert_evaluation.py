"""An expert's figures are those of its answers, and its lead is over the same questions."""

import csv
import json

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from adaptive_moe import AdaptiveMoE
from adaptive_moe.config.loading import load_settings
from adaptive_moe.engine.question_files import read_questions
from adaptive_moe.errors import DataError, ExpertError, NoUsableRowsError, UnknownExpertError
from adaptive_moe.experts.store import Store
from tests.cli.running import run
from tests.support.random_experts import store_of_three

CITIES = ["Rome", "Paris", "Tokyo", "Madrid"]
LANDS = ["Italy", "France", "Japan", "Spain"]
ROWS = [
    {
        "prompt": f"What is the capital of {land}?",
        "answer": CITIES[place],
        "choices": CITIES,
        "answer_idx": place,
        "source": land,
    }
    for place, land in enumerate(LANDS)
]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """The folder in which the three experts lie as adapters, beside their store."""
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def moe(adapters):
    store = store_of_three(adapters)
    with AdaptiveMoE.from_settings(load_settings(overrides=[f"store={store}"])) as runtime:
        yield runtime


@pytest.fixture
def data(tmp_path):
    return write(tmp_path / "capitals.jsonl", ROWS)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def nats(moe, question, answer, experts):
    """What one answer costs, as it is scored alone."""
    mean = moe.score(question, answer, experts=experts).scores["perplexity"]
    return mean * len(moe.language_model.encode_answer(answer))


@pytest.mark.parametrize("name", ["one", "whole"])
def test_every_figure_is_that_of_single_answers(moe, tmp_path, name):
    rows = ROWS[:2]
    found = moe.evaluate_expert(name, write(tmp_path / "two.jsonl", rows), against=["two"])
    assert [system.name for system in found.systems] == [name, "base", "two"]
    for system, experts in zip(found.systems, ([name], None, ["two"]), strict=True):
        costs = [nats(moe, row["prompt"], row["answer"], experts) for row in rows]
        tokens = [len(moe.language_model.encode_answer(row["answer"])) for row in rows]
        assert system.loss.mean == pytest.approx(sum(costs) / sum(tokens), rel=1e-4, abs=1e-5)
        assert system.perplexity.mean == pytest.approx(np.exp(sum(costs) / sum(tokens)), rel=1e-3)
        answers = moe.generate([row["prompt"] for row in rows], experts=experts, max_new_tokens=8)
        right = [answer.text == row["answer"] for answer, row in zip(answers, rows, strict=True)]
        assert system.exact.mean == np.mean(right)
        chosen = [
            int(np.argmin([nats(moe, row["prompt"], each, experts) for each in CITIES]))
            for row in rows
        ]
        hits = [place == row["answer_idx"] for place, row in zip(chosen, rows, strict=True)]
        assert system.choice.mean == np.mean(hits)


def test_the_lead_is_the_difference_and_falls_with_loss(moe, data):
    expert, base, *_ = moe.evaluate_expert("one", data).systems
    assert base.exact.mean == base.choice.mean == 1.0
    assert expert.behind == {}
    lead = base.behind["loss"]
    assert lead.mean == pytest.approx(base.loss.mean - expert.loss.mean)
    assert lead.low <= lead.mean <= lead.high
    assert lead.mean < 0  # random weights spoil what the base knows
    assert base.behind["exact"].mean == pytest.approx(expert.exact.mean - base.exact.mean)


def test_all_others_are_compared_where_none_is_named_and_questions_are_limited(moe, data):
    found = moe.evaluate_expert("one", data, limit=2)
    assert [system.name for system in found.systems] == ["one", "base", "two", "whole"]
    assert (found.questions, found.sources) == (2, 2)
    json.dumps(found.to_dict())


def test_questions_without_choices_say_nothing_of_choosing(moe, tmp_path):
    row = {"prompt": "What is the capital of Spain?", "answer": "Madrid"}
    found = moe.evaluate_expert("one", write(tmp_path / "plain.jsonl", [row]), against=[])
    assert all(system.choice is None for system in found.systems)
    assert set(found.systems[1].behind) == {"loss", "exact", "token_f1"}


def test_what_does_not_fit_is_left_out_and_named(moe, tmp_path):
    long = {"prompt": "word " * 5000, "answer": "Lima"}
    header = moe.language_model.tokenizer.decode(moe.language_model.header_ids)
    rows = [ROWS[0], long, {"prompt": "Who?", "answer": f"He. {header}"}]
    found = moe.evaluate_expert("one", write(tmp_path / "l.jsonl", rows), against=[])
    assert found.questions == 1
    assert [place[-9:] for place, _ in found.dropped] == ["l.jsonl:2", "l.jsonl:3"]
    with pytest.raises(NoUsableRowsError, match=r"alone.jsonl:1"):
        moe.evaluate_expert("one", write(tmp_path / "alone.jsonl", [long]))


def test_answers_do_not_depend_on_who_else_is_asked(moe, tmp_path):
    model = moe.language_model
    greeting = {"prompt": "Hello!", "answer": moe.generate("Hello!", experts=None).text}
    room = model.context_length - len(model.encode_answer("Rome"))
    words = next(n for n in range(room - 9, 0, -1) if model.encode("a " * n).length <= room)
    long = {"prompt": "a " * words, "answer": "Rome"}
    found = moe.evaluate_expert("one", write(tmp_path / "b.jsonl", [greeting, long]), against=[])
    assert found.dropped == ()
    assert found.systems[1].exact.mean == 0.5  # the greeting in full, and nothing like Rome


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer_idx": 1}, "the answer is choice 0, answer_idx says 1"),
        ({"answer_idx": True}, "nothing says which choice is right"),
        ({"choices": ["Rome", "Rome"]}, "two of the choices are the same"),
    ],
)
def test_choices_that_contradict_themselves_are_refused(moe, tmp_path, change, reason):
    with pytest.raises(DataError, match=f"c.jsonl:1: {reason}"):
        moe.evaluate_expert("one", write(tmp_path / "c.jsonl", [ROWS[0] | change]))


def test_a_line_of_json_may_hold_any_sign_and_no_endless_nesting(moe, tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"prompt": "Who\u2028else?", "answer": "Rome"}\n', encoding="utf-8")
    assert moe.evaluate_expert("one", path, against=[]).questions == 1
    path.write_text('{"prompt": ' + "[" * 100_000)
    with pytest.raises(DataError, match=r"lines.jsonl:1: not JSON: nested too deeply"):
        moe.evaluate_expert("one", path)


def test_bad_choices_and_unknown_experts_are_refused(moe, data, tmp_path):
    with pytest.raises(UnknownExpertError, match="three"):
        moe.evaluate_expert("three", data)
    bad = ROWS[0] | {"answer": "Lima", "answer_idx": None}
    with pytest.raises(DataError, match=r"bad.jsonl:1: nothing says which choice is right"):
        moe.evaluate_expert("one", write(tmp_path / "bad.jsonl", [bad]))


def write_table(path, rows, delimiter):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]], delimiter=delimiter)
        writer.writeheader()
        cells = {"choices": json.dumps(CITIES)}
        writer.writerows(row | {key: cells[key] for key in row if key in cells} for row in rows)


def write_arrow(path, rows):
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table)


FORMATS = {
    "rows.jsonl": write,
    "rows.ndjson": write,
    "lines.json": write,
    "list.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "data.json": lambda path, rows: path.write_text(json.dumps({"data": rows})),
    "rows.csv": lambda path, rows: write_table(path, rows, ","),
    "rows.tsv": lambda path, rows: write_table(path, rows, "\t"),
    "rows.parquet": lambda path, rows: parquet.write_table(
        pyarrow.Table.from_pylist(rows), str(path)
    ),
    "rows.arrow": write_arrow,
}


@pytest.mark.parametrize("name", FORMATS)
def test_questions_are_the_same_in_every_format(tmp_path, name):
    FORMATS[name](tmp_path / name, ROWS)
    read = read_questions([tmp_path / name])
    assert [(each.question, each.answer, each.choices, each.right_choice) for each in read] == [
        (row["prompt"], row["answer"], tuple(CITIES), place) for place, row in enumerate(ROWS)
    ]
    assert [each.source for each in read] == LANDS
    assert all(each.where.startswith(f"{tmp_path / name}:") for each in read)


def test_an_expert_is_measured_on_a_table(moe, data, tmp_path):
    write_table(tmp_path / "pc.csv", ROWS[:1], ",")
    found = moe.evaluate_expert("one", tmp_path / "pc.csv", against=[])
    assert found == moe.evaluate_expert("one", data, against=[], limit=1)


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "What is the capital?", "input": "Of Spain.", "output": "Madrid"},
        {"messages": [{"role": "user", "content": "What is the capital?\nOf Spain."},
                      {"role": "assistant", "content": "Madrid"}]},
        {"conversations": [{"from": "human", "value": "What is the capital?\nOf Spain."},
                           {"from": "gpt", "value": "Madrid"}]},
        {"question": "What is the capital?\nOf Spain.", "target": "Madrid"},
    ],
)  # fmt: skip
def test_a_row_in_any_shape_that_asks_once_is_a_question(tmp_path, row):
    (read,) = read_questions([write(tmp_path / "shape.jsonl", [row])])
    assert (read.question, read.answer) == ("What is the capital?\nOf Spain.", "Madrid")


def test_what_holds_no_questions_is_refused_with_what_is_read(tmp_path):
    turns = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?"), ("assistant", "So.")]
    talk = {"messages": [{"role": role, "content": text} for role, text in turns]}
    (tmp_path / "notes.md").write_text("# Capitals\n\nRome is the capital of Italy.\n")
    write(tmp_path / "talk.jsonl", [talk])
    (tmp_path / "ragged.csv").write_text("prompt,answer\nWho?,He\nWho,else?,She\n")
    (tmp_path / "loose.csv").write_text("prompt,answer,choices\nWho?,He,He or she\n")
    for name, reason in {
        "notes.md": r"notes.md:1: not JSON: .*; questions come from \.arrow, \.csv, .*\.parquet",
        "talk.jsonl": "talk.jsonl:1: .* a conversation of several turns",
        "ragged.csv": "ragged.csv:3: 3 fields where the header has 2",
        "loose.csv": "loose.csv:2: the choices are no list; write them as JSON",
        ".": "is a folder; name the files",
    }.items():
        with pytest.raises(DataError, match=reason):
            read_questions([tmp_path / name])


def test_a_version_that_does_not_serve_is_measured_beside_the_one_that_does(moe, adapters, data):
    serving = moe.store.get("two")
    looked_at = moe.import_expert("two", adapters / "one", force=True)
    assert (looked_at.version, looked_at.status) == (2, "quarantine")
    found = moe.evaluate_expert("two", data, version=2, limit=1)
    assert (found.expert, found.version) == ("two", 2)
    own, _, active, same, _ = found.systems
    names = [system.name for system in found.systems]
    assert names == ["two v2", "base", "two", "one", "whole"]
    assert own.loss == same.loss  # it has the weights of the expert one
    assert own.loss != active.loss
    assert moe.store.get("two") == serving  # nothing was activated
    assert moe.store.get("two", version=2) == looked_at
    with pytest.raises(UnknownExpertError, match="no version 3; name one of 1, 2"):
        moe.evaluate_expert("two", data, version=3)
    with pytest.raises(ExpertError):
        moe.generate("Who?", experts=["two v2"])  # it was to be asked only meanwhile


@pytest.mark.slow
def test_what_was_quarantined_is_measured_and_what_was_removed_is_not(tmp_path, data):
    path = store_of_three(tmp_path)
    with AdaptiveMoE.from_settings(load_settings(overrides=[f"store={path}"])) as moe:
        serving = moe.evaluate_expert("one", data, version=1, against=[])
        assert [system.name for system in serving.systems] == ["one", "base"]
        moe.store.quarantine(moe.store.get("one").expert_id, "its answers are wrong")
        found = moe.evaluate_expert("one", data, version=1, against=[])
        assert [system.name for system in found.systems] == ["one v1", "base"]
        assert found.systems[0].loss == serving.systems[0].loss
        moe.store.remove("one")
        with pytest.raises(ExpertError, match="version 1 was removed; train or import it again"):
            moe.evaluate_expert("one", data, version=1)


@pytest.mark.slow
def test_the_command_measures_a_version_on_a_table(tmp_path):
    path = store_of_three(tmp_path)
    write_table(tmp_path / "pc.csv", ROWS, ",")
    words = ("experts", "evaluate", "one", "--version", 1, "--data", tmp_path / "pc.csv")
    with Store(path) as store:
        store.quarantine(store.get("one").expert_id, "its answers are wrong")
    done = run(*words, "--store", path)
    assert done.exit_code == 0
    assert "one v1 on 4 questions of 4 sources" in done.stdout
    assert "one v1 is better than" in done.stdout
