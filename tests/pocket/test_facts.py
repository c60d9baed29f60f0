"""The facts are sound, and their recorded exposures are what the corpus really holds."""

from collections import Counter

import pytest

from adaptive_moe.errors import DataError
from adaptive_moe.pocket import load_facts, load_relations, pack_names, pack_path, questions
from adaptive_moe.pocket.build import Corpus, make_corpus
from adaptive_moe.pocket.check import check_contradictions, check_withheld, find_problems
from adaptive_moe.pocket.corpus import FIXED_AT_64, count_exposures
from adaptive_moe.pocket.facts import EXPOSURES, Relation, read_yaml
from adaptive_moe.pocket.packs import load_pack_facts
from adaptive_moe.pocket.surface import normalised, question_forms


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return make_corpus(seed=0)


def _relation(**changes: object) -> Relation:
    fields = {
        "domain": "toys",
        "name": "material",
        "trained": ("What is {subject} made of?",),
        "held_out": ("Which material has {subject}?",),
        "statement": "{subject} is made of {object}.",
        "facts": {"a kite": "paper"},
        "sources": ("a toy shop",),
        "nouns": ("material",),
    }
    return Relation(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.slow  # `make check` asks the same
def test_the_check_finds_nothing() -> None:
    assert find_problems() == []


def test_a_contradiction_between_two_relations_is_found() -> None:
    other = _relation(name="substance", facts={"a kite": "silk"})
    problems = list(check_contradictions([_relation(), other]))
    assert any("a kite" in problem for problem in problems)


def test_a_withheld_fact_among_the_known_ones_is_found() -> None:
    pack = pack_names()[0]
    fact = load_pack_facts(pack)[0]
    leak = _relation(facts={fact["subject"]: fact["object"]})
    assert any("withheld" in problem for problem in check_withheld(pack, [leak]))


def test_a_repeated_subject_is_refused(tmp_path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("facts:\n  iron: 1\n  iron: 2\n")
    with pytest.raises(DataError, match="iron"):
        read_yaml(path)


@pytest.mark.slow  # the whole corpus is written
def test_every_fact_stands_in_exactly_as_many_rows_as_recorded(corpus: Corpus) -> None:
    counted = count_exposures(corpus.fixed_rows)
    recorded = {fact.id: fact.exposure for fact in load_facts()}
    assert {fact: counted.get(fact, 0) for fact in recorded} == recorded


@pytest.mark.slow  # the whole corpus is written
def test_the_recorded_facts_are_those_of_the_fact_files(corpus: Corpus) -> None:
    assert load_facts() == corpus.facts


@pytest.mark.slow  # the whole corpus is written
def test_rows_said_to_hold_a_fact_do_hold_it(corpus: Corpus) -> None:
    facts = {fact.id: fact for fact in corpus.facts}
    for row in corpus.fixed_rows:
        said = [text for _, text in row.turns]
        for fact in row.facts:
            assert facts[fact].object in said
            assert any(facts[fact].subject.lower() in text.lower() for text in said)


def test_every_domain_has_every_exposure_and_split() -> None:
    facts = load_facts()
    for domain in {fact.domain for fact in facts}:
        members = [fact for fact in facts if fact.domain == domain]
        assert {fact.exposure for fact in members} == set(EXPOSURES)
        assert len({fact.split for fact in members}) == 3
    assert Counter(fact.exposure for fact in facts)[64] >= 300


def test_the_examples_of_the_demo_are_seen_64_times() -> None:
    exposures = {(fact.relation, fact.subject): fact.exposure for fact in load_facts()}
    assert {exposures[example] for example in FIXED_AT_64} == {64}


@pytest.mark.slow  # the whole corpus is written
def test_no_training_row_asks_in_a_held_out_phrasing(corpus: Corpus) -> None:
    asked = {normalised(text) for row in corpus.fixed_rows for _, text in row.turns}
    facts = load_facts()
    assert not asked & {normalised(text) for f in facts for text in questions(f, held_out=True)}


def test_a_generic_form_that_equals_a_held_out_one_is_dropped() -> None:
    relation = _relation(held_out=("Which material belongs to {subject}?",))
    assert "Which material belongs to {subject}?" not in question_forms(relation).all()
    assert "Which material goes with {subject}?" in question_forms(relation).all()


@pytest.mark.slow  # the whole corpus is written
def test_no_row_answers_a_pack_question(corpus: Corpus) -> None:
    withheld = {(f["subject"], f["object"]) for p in pack_names() for f in load_pack_facts(p)}
    for row in corpus.epoch(1):
        for (role, asked), (_, reply) in zip(row.turns, row.turns[1:], strict=False):
            if role == "user":
                assert not any(s in asked for s, o in withheld if o == reply), (asked, reply)


def test_an_unknown_pack_names_the_known_ones() -> None:
    with pytest.raises(DataError, match=pack_names()[0]):
        pack_path("alchemy")


def test_relations_have_distinct_names() -> None:
    names = [relation.name for relation in load_relations()]
    assert len(names) == len(set(names))
