import io

from rich.console import Console

from adaptive_moe.cli.render import answer_parts, confidence_line, share_table, why_parts
from adaptive_moe.cli.tables import facts_table, rank_map
from tests.cli.answers import answer
from tests.cli.hostile import leaks, strings


def shown(*parts, colour=False, width=100) -> str:
    file = io.StringIO()
    console = Console(
        file=file, width=width, force_terminal=colour, color_system="standard" if colour else None,
        markup=False, emoji=False, highlight=False,
    )  # fmt: skip
    for part in parts:
        console.print(part)
    return file.getvalue()


def test_no_hostile_string_gets_through_any_part_of_an_answer():
    for text in strings(1000):
        made = answer(
            text, experts=(text,), source=text, label=text, reason=text, low=True, p_correct=None
        )
        out = shown(*answer_parts(made), *why_parts(made), colour=True)
        assert leaks(out) == [], repr(text)


def test_no_hostile_string_gets_through_tables():
    for text in strings(300):
        assert leaks(shown(facts_table({text: text}), rank_map({f"{text}.3.{text}": 4}))) == []


def test_a_base_answer_is_its_text_and_one_line():
    out = shown(*answer_parts(answer("Paris", experts=())))
    assert out.splitlines() == ["Paris", "base · confident (p = 0.90) · 2 tokens · 0.03 s"]


def test_doubt_is_marked():
    line = confidence_line(answer(low=True, p_correct=None)).plain
    assert line.startswith("? chemistry v1 · low confidence (untrained router)")


def test_a_token_takes_the_colour_of_the_expert_that_helped_it():
    made = answer(experts=("one", "two"), shares=[[0.0, 2.0], [0.3, 0.01]])
    out = shown(answer_parts(made)[0], colour=True)
    assert "\x1b[1;36mFe\x1b[0m" in out  # bold cyan: the second expert, more than a nat
    assert "\x1b[32m is iron\x1b[0m" in out


def test_shares_can_be_read_without_colours():
    made = answer(experts=("one", "two"), shares=[[1.25, 2.0], [0.3, -0.05]])
    rows = shown(share_table(made.tokens, made.attribution)).splitlines()
    assert rows[0].split() == ["token", "log", "p", "base", "log", "p", "routed", "one", "two"]
    assert rows[1].split() == ["Fe", "-4.00", "-0.75", "+1.25", "+2.00"]
    assert rows[2].split() == ["·is·iron", "-1.00", "-0.75", "+0.30", "-0.05"]
    assert rows[-1].split() == ["all", "-5.00", "-1.50", "+1.55", "+1.95"]


def test_sources_name_file_line_question_and_answer():
    out = shown(*answer_parts(answer()))
    assert "from elements.md:12  Fe is iron → Fe is iron  (0.91)" in out


def test_the_rank_map_has_a_row_a_layer_and_a_column_a_module():
    ranks = {"model.layers.0.mlp.up_proj": 2, "model.layers.1.self_attn.q_proj": 16}
    rows = [line.split() for line in shown(rank_map(ranks)).splitlines()]
    assert rows == [["layer", "up_proj", "q_proj"], ["0", "2", "░", "·"], ["1", "·", "16", "█"]]


def test_a_narrow_terminal_is_enough():
    made = answer(low=True)
    out = shown(*answer_parts(made), *why_parts(made), width=40)
    assert max(len(line) for line in out.splitlines()) <= 40
