from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from adaptive_moe.cli.safe_text import clean, clean_line, safe
from tests.cli.hostile import PAYLOADS, leaks, strings


def test_nothing_hostile_is_left():
    for text in strings(1000):
        assert leaks(clean(text)) == []


def test_newline_tab_and_every_script_stay():
    text = "a\tb\nÄé漢字 עברית العربية 🙂 ∑"
    assert clean(text) == text


def test_the_visible_part_of_an_escape_sequence_stays():
    assert clean("\x1b[31mred") == "[31mred"


@given(st.text(), st.text())
def test_a_stream_may_be_cut_anywhere(first: str, second: str):
    assert clean(first) + clean(second) == clean(first + second)


def test_safe_text_is_never_markup():
    for text in strings(1000):
        shown = Text.from_markup(safe(text), emoji=False)
        assert not shown.spans
        assert shown.plain.replace("\\", "") == clean(text).replace("\\", "")


def test_a_line_is_one_line():
    assert clean_line(" two\n\tlines \r") == "two lines"
    assert all("\n" not in clean_line(payload) for payload in PAYLOADS)
