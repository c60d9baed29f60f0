"""Material that says nothing is told from material that is not there."""

import json

import pytest

from adaptive_moe.engine.evidence import BestPlace, MissingSourcesError, coverage, relevant_files
from adaptive_moe.errors import GapError

PROMPTS = ["Which keeper does the northern lighthouse have?", "Who keeps the old lighthouse?"]


def test_every_prompt_is_told_the_place_that_answers_it_best(tmp_path):
    """Three lines of the table hold half of the first prompt's topic words, one holds both."""
    (tmp_path / "lights.md").write_text(
        "# Lights\n\nA light has a keeper.\n\n| Light | Keeper |\n|---|---|\n"
        "| Bell Rock | Ann |\n| Bell Head | Bo |\n| South Head | Cy |\n"
    )
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "Who paints South Head?", "completion": "Di"}\n')
    prompts = ("Who is at Bell Head?", "Who paints South Head?", "How deep is lake Como?")
    found = coverage(prompts, [tmp_path])
    assert found.found == (
        BestPlace(prompts[0], "lights.md", 8),
        BestPlace(prompts[1], "rows.jsonl", 1),
    )
    assert found.missing == (prompts[2],)


@pytest.fixture
def data_set(tmp_path):
    """A folder laid out as the hub has data sets, which speaks of other things."""
    rows = [{"prompt": f"How deep is lake {n}?", "completion": f"{n} metres"} for n in range(8)]
    folder = tmp_path / "lakes"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return type(folder)(f"hf:{folder}")


def test_a_data_set_that_says_nothing_is_not_missing(data_set):
    with pytest.raises(GapError, match="says nothing about 2 of 2 prompts") as found:
        relevant_files(PROMPTS, [data_set])
    assert not isinstance(found.value, MissingSourcesError)


def test_a_data_set_that_cannot_be_had_is_missing_like_a_file_that_is_not_there(tmp_path):
    for name in ("hf:nobody/nothing", str(tmp_path / "gone.md")):
        path = type(tmp_path)(name)
        with pytest.raises(MissingSourcesError) as found:
            relevant_files(PROMPTS, [path])
        assert list(found.value.paths) == [path]


def test_of_places_with_as_many_topic_words_the_one_with_the_rare_word_is_best(tmp_path):
    lines = [f"The lantern number {number} is a lantern of brass." for number in range(12)]
    lines[7] = "The quoin of a press is a wedge."
    (tmp_path / "words.md").write_text("# Words\n\n" + "\n\n".join(lines) + "\n")
    prompt = "Is a quoin a lantern?"
    (best,) = coverage([prompt], [tmp_path]).found
    assert best == BestPlace(prompt, "words.md", 17)
