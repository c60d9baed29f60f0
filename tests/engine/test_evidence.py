"""Material that says nothing is told from material that is not there."""

import json

import pytest

from adaptive_moe.engine.evidence import MissingSourcesError, relevant_files
from adaptive_moe.errors import GapError

PROMPTS = ["Which keeper does the northern lighthouse have?", "Who keeps the old lighthouse?"]


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
