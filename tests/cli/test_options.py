import pytest

from adaptive_moe.cli.options import as_overrides, in_options_words, parse_route
from adaptive_moe.config.loading import load_settings
from adaptive_moe.errors import ConfigurationError


def test_a_route_mirrors_experts():
    assert parse_route("auto") == "auto"
    assert parse_route("base") is None
    assert parse_route("one, two") == ("one", "two")


@pytest.mark.parametrize("text", ["", ",", "one,", "auto,one", "base,one"])
def test_an_impossible_route_is_refused(text):
    with pytest.raises(ConfigurationError, match="--route"):
        parse_route(text)


def test_options_are_settings_whatever_characters_they_hold():
    words = as_overrides({"base": 'my: "model" #1', "store": None, "seed": 5, "rank": 3})
    settings = load_settings(overrides=words, environment={})
    assert settings.base.id == 'my: "model" #1'
    assert (settings.generation.seed, settings.training.seed) == (5, 5)
    assert settings.training.rank == 3
    assert settings.store is None


def test_a_complaint_names_the_option_that_was_given():
    words = in_options_words("--set: generation.seed: bad; --set: training.seed: bad", {"seed": -1})
    assert words == "--seed: bad"
    assert in_options_words("--set: training.rank: bad", {"rank": None}).startswith("--set")
