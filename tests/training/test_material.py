"""Material is detected, counted and refused as promised."""

import json
import shutil

import pytest

from adaptive_moe.errors import DataError, NoUsableRowsError
from adaptive_moe.pocket import load_questions, pack_names, pack_path
from adaptive_moe.training.material import question_key, read_material

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


def test_the_context_of_a_question_stands_in_front_of_it(tmp_path):
    about = {"context": "The lake lies in Tarvik.\n"}
    records = [
        {"question": QUESTION, "answer": ANSWER, **about},
        {"instruction": QUESTION, "response": ANSWER, "context": "It lies in Tarvik."},
        {"prompt": [{"role": "user", "content": f"Tell me. {QUESTION}"}], "answer": "40", **about},
        {"question": "How old is it?", "answer": "Old.", "context": ""},
        {"question": "How wide is it?", "answer": "Wide.", "context": ["The lake."]},
    ]
    material = read_material([write_jsonl(tmp_path / "rows.jsonl", records)])
    assert [row.prompt for row in material.rows] == [
        (("user", f"The lake lies in Tarvik.\n\n{QUESTION}"),),
        (("user", f"It lies in Tarvik.\n\n{QUESTION}"),),
        (("user", f"The lake lies in Tarvik.\n\nTell me. {QUESTION}"),),
        (("user", "How old is it?"),),
    ]
    assert material.shape.startswith("question/context/answer + ")
    assert material.dropped == (("rows.jsonl", 5, "context is a list, not text"),)


def test_text_rows_become_passages(tmp_path):
    path = write_jsonl(tmp_path / "t.jsonl", [{"text": "The lake is forty metres deep."}])
    material = read_material([path])
    assert material.shape == "text"
    assert material.passages[0].text.startswith("The lake")


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv", ".parquet", ".arrow"])
def test_other_containers_give_the_same_rows(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    records = [{"prompt": f"{QUESTION} {i}", "completion": ANSWER} for i in range(3)]
    if suffix == ".json":
        path.write_text(json.dumps({"data": records}))
    elif suffix == ".parquet":
        import pyarrow as pa
        from pyarrow import parquet

        parquet.write_table(pa.Table.from_pylist(records), path)
    elif suffix == ".arrow":
        import pyarrow as pa

        table = pa.Table.from_pylist(records)
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table)
    else:
        comma = "," if suffix == ".csv" else "\t"
        lines = [comma.join(record.values()) for record in records]
        path.write_text("\n".join([comma.join(records[0]), *lines]))
    material = read_material([path])
    assert [row.prompt[0][1] for row in material.rows] == [f"{QUESTION} {i}" for i in range(3)]


def test_data_sets_are_read_from_the_disk_and_by_name(tmp_path):
    from datasets import Dataset

    records = [{"prompt": f"{QUESTION} {i}", "completion": ANSWER} for i in range(3)]
    Dataset.from_list(records).save_to_disk(tmp_path / "saved")
    write_jsonl(tmp_path / "train.jsonl", records[:2])
    write_jsonl(tmp_path / "test.jsonl", records[2:])

    saved = read_material([tmp_path / "saved"])
    assert [row.prompt[0][1] for row in saved.rows] == [f"{QUESTION} {i}" for i in range(3)]
    assert saved.dropped == ()
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(tmp_path / "gone.arrow")
    named = read_material([f"hf:{tmp_path}:test"])
    assert [row.prompt[0][1] for row in named.rows] == [f"{QUESTION} 2"]
    assert named.rows[0].file == f"hf:{tmp_path}:test"


def test_a_data_set_that_cannot_be_had_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nobody/nothing: not a readable data set of the hub"):
        read_material(["hf:nobody/nothing"])


PAGE = """<!doctype html><html><head><title>Lakes of the north</title><style>p {color: red}</style>
</head><body><nav>Home</nav><h1>Lakes</h1><p>The <b>lake</b> is <a href="x">forty</a> metres
deep.</p><h2>Figures</h2><table><tr><th>Lake</th><th>Depth in metres</th></tr>
<tr><td>Vidra</td><td>40</td></tr></table><script>alert("no")</script></body></html>"""


def test_pages_are_read_like_markdown(tmp_path):
    (tmp_path / "lakes.html").write_text(PAGE)
    (tmp_path / "bare.htm").write_text("<title>Bare</title><p>Only this.</p>")
    material = read_material([tmp_path])
    bare, text, table = material.passages
    assert (bare.heading, bare.text) == (("Bare",), "Only this.")
    assert text.heading == ("Lakes",)
    assert text.text == "The **lake** is forty metres deep."
    assert table.heading == ("Lakes", "Figures")
    assert table.text.splitlines()[0] == "| Lake | Depth in metres |"
    assert "| Vidra | 40 |" in table.text
    assert not any(
        "alert" in passage.text or "Home" in passage.text for passage in material.passages
    )


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<form><p>All is in a form.</p><input value='x'></form>", [("All is in a form.", ())]),
        ("<nav>Home<p>Never closed, the text goes on.</p>", None),
        ("<p>Neither title nor heading.</p>", [("Neither title nor heading.", ())]),
        ("<svg><title>icon</title></svg><p>Drawn.</p>", [("Drawn.", ())]),
        ("<h1>Songs</h1><p># 1 is the best.</p>", [("# 1 is the best.", ("Songs",))]),
        ("<title>T</title><pre># comment</pre><p>Text.</p>", [("Text.", ("T",))]),
    ],
)
def test_odd_pages_lose_no_text_and_gain_none(tmp_path, page, expected):
    (tmp_path / "odd.html").write_text(page)
    passages = read_material([tmp_path]).passages
    if expected is None:
        assert "the text goes on" in " ".join(each.text for each in passages)
    else:
        assert [(each.text, each.heading) for each in passages] == expected


def test_an_empty_page_is_no_material(tmp_path):
    (tmp_path / "empty.html").write_text("")
    with pytest.raises(NoUsableRowsError, match="no text"):
        read_material([tmp_path])


def test_a_pack_cannot_be_learned_from_as_a_data_set(tmp_path):
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.md").write_text("The lake is forty metres deep.")
    rows = [{"question": f"{QUESTION} {i}", "answer": ANSWER} for i in range(4)]
    write_jsonl(tmp_path / "questions.jsonl", rows)
    write_jsonl(tmp_path / "train.jsonl", rows)
    with pytest.raises(DataError, match="held out for measuring"):
        read_material([f"hf:{tmp_path}"])
    with pytest.raises(DataError, match="names no data set"):
        read_material(["hf:"])


def test_a_second_answer_to_one_question_is_dropped_and_named(tmp_path):
    rows = [
        {"prompt": QUESTION, "completion": answer} for answer in (ANSWER, "Fifty metres.", ANSWER)
    ]
    material = read_material([write_jsonl(tmp_path / "rows.jsonl", rows)])
    assert [row.answer for row in material.rows] == [ANSWER]
    reasons = [reason for _, _, reason in material.dropped]
    assert reasons[0] == "it answers the question of rows.jsonl, row 1, otherwise"
    assert reasons[1] == "the same prompt and answer stand further up"


def test_case_spaces_and_closing_marks_make_no_question_another_one(tmp_path):
    asked = [QUESTION, QUESTION.upper(), QUESTION.replace("?", " ?"), QUESTION.rstrip("?")]
    rows = [{"prompt": text, "completion": f"{n} metres."} for n, text in enumerate(asked)]
    material = read_material([write_jsonl(tmp_path / "rows.jsonl", rows)])
    assert [row.prompt[-1][1] for row in material.rows] == [QUESTION]
    assert {reason for _, _, reason in material.dropped} == {
        "it answers the question of rows.jsonl, row 1, otherwise"
    }


def test_what_agrees_or_is_another_question_is_taught(tmp_path):
    rows = [
        {"prompt": QUESTION, "completion": ANSWER},
        {"prompt": QUESTION.lower(), "completion": ANSWER},
        {"prompt": "What is 3 + 4?", "completion": "7"},
        {"prompt": "What is 3 - 4?", "completion": "-1"},
        {"messages": [
            {"role": "user", "content": "I mean Lake Como."},
            {"role": "assistant", "content": "Ask me."},
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": "410 metres."},
        ]},
    ]  # fmt: skip
    material = read_material([write_jsonl(tmp_path / "rows.jsonl", rows)])
    assert material.dropped == ()
    assert [row.answer for row in material.rows] == [
        ANSWER,
        ANSWER,
        "7",
        "-1",
        "Ask me.",
        "410 metres.",
    ]


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


@pytest.mark.parametrize("suffix", ["md", "txt", "csv", "json"])
@pytest.mark.parametrize(
    ("content", "place"),
    [
        (bytes(range(256)) * 20, r"row 2: not UTF-8 text at byte 128"),
        ("# Sign\n\nBreite: 3 m\u00fcde\n".encode("latin-1"), "row 3: not UTF-8 .* byte 19; save"),
        ("# Sign\n".encode("utf-16"), "row 1: not UTF-8 text at byte 0"),
        (b"# Sign\n\nbar\x00baz, qux\n", "row 3: .*binary data, as byte 11 shows"),
        (b"a \x01\x02 is \x03\n" * 50, "row 1: .*binary data, as byte 2 shows"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_name_and_place(tmp_path, suffix, content, place):
    (tmp_path / "good.md").write_text("# Good\n\nThe code of Brimhold is 17.\n")
    bad = tmp_path / f"noise.{suffix}"
    bad.write_bytes(content)
    with pytest.raises(DataError, match=rf"noise\.{suffix}, {place}"):
        read_material([tmp_path])


def test_text_of_any_script_and_a_stray_control_character_are_read(tmp_path):
    text = "# Größe\n\n東京の人口は多い。 The end.\x0c\n\nक\u200bख 😀 ß\n" * 9 + "\x1b\n"
    (tmp_path / "notes.md").write_text(text, encoding="utf-8-sig")
    passages = read_material([tmp_path]).passages
    assert passages[0].heading == ("Größe",)
    assert any("😀" in passage.text for passage in passages)


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


@pytest.mark.parametrize("pack", pack_names())
def test_the_shipped_questions_are_reserved_wherever_the_documents_lie(tmp_path, pack):
    document = next((pack_path(pack) / "documents").glob("*.md"))
    shutil.copy(document, tmp_path / "copy.md")
    questions = load_questions(pack)
    material = read_material([tmp_path / "copy.md"])
    assert {question_key(item.question) for item in questions} <= material.reserved

    rows = write_jsonl(
        tmp_path / "rows.jsonl", [{"prompt": questions[-1].question, "completion": "x"}]
    )
    with pytest.raises(DataError, match=r"rows\.jsonl, row 1: .*held out"):
        read_material([rows])


def test_held_out_questions_in_a_foreign_data_set_are_dropped_and_listed(tmp_path):
    held_out = [item.question for item in load_questions(pack_names()[0])[:2]]
    asked = ["one?", held_out[0].upper(), "two?", "three?"]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": q, "completion": "x"} for q in asked])
    material = read_material([path])
    assert [row.prompt[0][1] for row in material.rows] == ["one?", "two?", "three?"]
    ((file, line, reason),) = material.dropped
    assert (file, line) == ("rows.jsonl", 2)
    assert "held out for measuring" in reason
    assert read_material([path, path]).rows == material.rows  # repeated rows are rows all the same


def test_a_conversation_with_a_held_out_question_goes_as_a_whole(tmp_path):
    held_out = load_questions(pack_names()[0])[0].question
    texts = [("user", held_out), ("assistant", "a"), ("user", "and then?"), ("assistant", "b")]
    talk = {"messages": [{"role": role, "content": text} for role, text in texts]}
    other = {"messages": [{"role": "user", "content": "x?"}, {"role": "assistant", "content": "y"}]}
    material = read_material([write_jsonl(tmp_path / "talks.jsonl", [talk, other])])
    assert [row.answer for row in material.rows] == ["y"]


def test_a_copy_of_a_packs_questions_is_refused_even_with_rows_added(tmp_path):
    held_out = [item.question for item in load_questions(pack_names()[0])[:4]]
    for others, refused in ((3, True), (4, False)):
        asked = [*(f"{i}?" for i in range(others)), *held_out]
        path = write_jsonl(
            tmp_path / "copy.jsonl", [{"prompt": q, "completion": "x"} for q in asked]
        )
        if refused:
            with pytest.raises(DataError, match=r"copy\.jsonl, row 4: .* 4 of 7 .* leave the file"):
                read_material([path])
        else:
            assert len(read_material([path]).rows) == others


def test_the_digest_depends_on_content_not_on_place(tmp_path):
    (tmp_path / "a").mkdir()
    records = [{"prompt": "a?", "completion": "b"}]
    first = read_material([write_jsonl(tmp_path / "x.jsonl", records)])
    second = read_material([write_jsonl(tmp_path / "a" / "y.jsonl", records)])
    other = read_material(
        [write_jsonl(tmp_path / "z.jsonl", [{"prompt": "a?", "completion": "c"}])]
    )
    assert first.digest == second.digest != other.digest
