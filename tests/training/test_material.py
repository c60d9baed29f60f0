"""Material is detected, counted and refused as promised."""

import json

import pytest

from adaptive_moe.errors import DataError, NoUsableRowsError
from adaptive_moe.training.material import read_material

QUESTION, ANSWER = "How deep is the lake?", "Forty metres."
SHAPES = {
    "messages": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
    },
    "alpaca": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "prompt/completion": {"prompt": QUESTION, "completion": ANSWER},
    "question/answer": {"question": QUESTION, "answer": ANSWER, "domain": "lakes"},
    "prompt/response": {"prompt": QUESTION, "response": ANSWER, "choices": ["1", "2"]},
    "input/output": {"input": QUESTION, "output": ANSWER},
}


def write_jsonl(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_detected_without_a_flag(tmp_path, shape):
    material = read_material([write_jsonl(tmp_path / "rows.jsonl", [SHAPES[shape]])])
    assert material.shape == shape
    row = material.rows[0]
    assert row.prompt[-1] == ("user", QUESTION)
    assert row.answer == ANSWER
    assert (row.file, row.line) == ("rows.jsonl", 1)


def test_text_rows_become_passages(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "The lake is forty metres deep."}])
    material = read_material([path])
    assert material.shape == "text"
    assert material.passages[0].text.startswith("The lake")


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv", ".parquet"])
def test_other_containers_give_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    records = [{"prompt": f"{QUESTION} {i}", "completion": ANSWER} for i in range(3)]
    if suffix == ".json":
        path.write_text(json.dumps({"data": records}))
    elif suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(records), path)
    else:
        comma = "," if suffix == ".csv" else "\t"
        lines = [comma.join(record.values()) for record in records]
        path.write_text("\n".join([comma.join(records[0]), *lines]))
    material = read_material([path])
    assert [row.prompt[0][1] for row in material.rows] == [f"{QUESTION} {i}" for i in range(3)]


def test_each_assistant_turn_is_one_row(tmp_path):
    turns = [("user", "a?"), ("assistant", "b"), ("user", "c?"), ("assistant", "d")]
    record = {"messages": [{"role": role, "content": text} for role, text in turns]}
    material = read_material([write_jsonl(tmp_path / "m.jsonl", [record])])
    assert [row.answer for row in material.rows] == ["b", "d"]
    assert material.rows[1].prompt == tuple(turns[:3])


def test_wrong_rows_are_dropped_with_file_row_and_reason(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"prompt": "a?", "completion": "b"})
    lines = [
        good,
        "{broken",
        json.dumps([1]),
        json.dumps({"frage": "a"}),
        json.dumps({"prompt": "a?", "completion": ""}),
        json.dumps({"prompt": "a?", "completion": {"x": 1}}),
        json.dumps({"messages": [{"role": "wizard", "content": "x"}]}),
        json.dumps({"messages": [{"role": "user", "content": "x"}]}),
        json.dumps({"prompt": "\x00\x01\x02\x03\x04", "completion": "x"}),
        json.dumps({"prompt": "spam " * 60, "completion": "x"}),
        good,
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ]
    path.write_text("\n".join(lines), encoding="latin-1")
    material = read_material([path])
    assert len(material.rows) == 1
    assert [line for _, line, _ in material.dropped] == list(range(2, 13))
    reasons = [reason for _, _, reason in material.dropped]
    assert all(reasons)
    assert "stand further up" in reasons[9]


def test_no_usable_row_names_the_first_bad_one(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a?"}, {"x": 1}])
    with pytest.raises(NoUsableRowsError, match=r"rows\.jsonl, row 1: no known keys"):
        read_material([path])


@pytest.mark.parametrize("name", ["gone.jsonl", "rows.xyz"])
def test_missing_and_unknown_files_are_named(tmp_path, name):
    (tmp_path / "rows.xyz").write_text("x")
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        read_material([tmp_path / name])


def test_limit_counts_usable_rows(tmp_path):
    records = [{"prompt": f"{i}?", "completion": ""} for i in range(3)]
    records += [{"prompt": f"{i}?", "completion": "x"} for i in range(9)]
    material = read_material([write_jsonl(tmp_path / "r.jsonl", records)], limit=4)
    assert len(material.rows) == 4


def make_pack(tmp_path):
    pack = tmp_path / "lakes"
    (pack / "documents").mkdir(parents=True)
    (pack / "documents" / "lakes.md").write_text(
        "# Lakes\n\nIntro text.\n\n| Lake | Depth |\n| --- | --- |\n| Garda | 346 m |\n"
    )
    write_jsonl(pack / "questions.jsonl", [{"question": "How deep is Garda?", "answer": "346 m"}])
    write_jsonl(pack / "examples.jsonl", [{"question": "x?", "answer": "y"}])
    return pack


def test_of_a_pack_only_the_documents_are_read(tmp_path):
    material = read_material([make_pack(tmp_path)])
    assert material.rows == ()
    assert material.shape == "documents"
    table = material.passages[1]
    assert table.text.startswith("| Lake | Depth |")
    assert (table.heading, table.file, table.line) == (
        ("Lakes",),
        "lakes/documents/lakes.md",
        5,
    )


def test_held_out_questions_cannot_be_trained_on(tmp_path):
    pack = make_pack(tmp_path)
    with pytest.raises(DataError, match="held-out"):
        read_material([pack / "questions.jsonl"])
    sneaky = write_jsonl(
        pack / "mine.jsonl",
        [
            {"prompt": "other?", "completion": "z"},
            {"prompt": "how deep IS garda", "completion": "3"},
        ],
    )
    with pytest.raises(DataError, match=r"mine\.jsonl, row 2"):
        read_material([sneaky])


def test_the_digest_depends_on_content_not_on_place(tmp_path):
    (tmp_path / "a").mkdir()
    records = [{"prompt": "a?", "completion": "b"}]
    first = read_material([write_jsonl(tmp_path / "x.jsonl", records)])
    second = read_material([write_jsonl(tmp_path / "a" / "y.jsonl", records)])
    other = read_material(
        [write_jsonl(tmp_path / "z.jsonl", [{"prompt": "a?", "completion": "c"}])]
    )
    assert first.digest == second.digest != other.digest
