"""Prompts read as words."""

import pytest

from adaptive_moe.gaps.terms import (
    asks_the_same,
    content_words,
    prompt_hash,
    subjects,
    telling_terms,
)


def test_case_spacing_and_punctuation_make_no_other_prompt():
    assert prompt_hash("What is  the symbol of Iron?") == prompt_hash("what is the symbol of iron")
    assert prompt_hash("What is iron?") != prompt_hash("What is gold?")
    assert prompt_hash("??") != prompt_hash("!!")


@pytest.mark.parametrize("prompt", ["And what about it?", "Why?", "...", "", "Tell me more please"])
def test_a_prompt_without_topic_has_no_content_words(prompt):
    assert content_words(prompt) == frozenset()


@pytest.mark.parametrize("prompt", ["What is C?", "What does any() do?", "404?", "鉄の元素記号は?"])
def test_short_topics_are_topics(prompt):
    assert content_words(prompt)


def test_another_topic_word_makes_another_question():
    assert not asks_the_same("What is the symbol of iron?", "What is the symbol of gold?")
    assert asks_the_same("What is the symbol of iron?", "iron's symbol, please")


def test_terms_tell_a_group_from_the_others():
    groups = {
        1: ("symbol of iron", "symbol of gold", "atomic symbol of tin"),
        2: ("capital of France", "capital of Spain", "symbol on the flag of Spain"),
    }

    assert telling_terms(groups, 1, limit=1) == ("symbol",)
    assert telling_terms(groups, 2, limit=2) == ("capital", "spain")
    assert telling_terms(groups, 3) == ()


def test_subjects_are_what_tells_the_prompts_from_each_other():
    prompts = (
        "Which keeper does Bell Rock have?",
        "Who is the keeper of Tarvik?",
        "Is Tarvik's keeper old?",
        "Name the keeper of Peldrin-Sound, please",
    )

    assert subjects(prompts) == ("Tarvik", "Bell Rock", "old", "Name", "Peldrin-Sound")
    assert subjects(prompts, limit=1) == ("Tarvik",)


def test_a_single_prompt_asks_about_all_that_it_names():
    assert subjects(("Which keeper does Bell Rock have?",)) == ("keeper", "Bell Rock")
    assert subjects(()) == ()
    assert subjects(("And what about it?",)) == ()
