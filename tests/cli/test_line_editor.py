import pytest

from adaptive_moe.cli.line_editor import read_message


def typed(*lines):
    waiting = list(lines)

    def read_line(_prompt: str) -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    return read_line


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["hello"], "hello"),
        (["one \\", "two\\", "three"], "one \ntwo\nthree"),
        (['"""one line"""'], "one line"),
        (['"""', "first", "", "  third", '"""'], "first\n\n  third"),
        (['"""first', 'last"""'], "first\nlast"),
        (["never finished\\"], "never finished\n".rstrip("\n")),
        (['"""', "never finished"], "never finished"),
    ],
)
def test_a_message_may_have_many_lines(lines, message):
    assert read_message(typed(*lines)) == message


def test_the_end_of_input_is_told():
    with pytest.raises(EOFError):
        read_message(typed())
