"""How wide a topic is comes from domains that the whitening never saw."""

import numpy as np
import pytest

from adaptive_moe.router.domains import topic_columns
from adaptive_moe.router.topics import fit_topics, units
from adaptive_moe.router.whitening import fit_whitening
from tests.router.world import STATE, World


def labelled(names, count=60):
    world = World(3)
    return {name: world.states(name, count) for name in names}


def test_the_radius_tells_a_new_domain_from_the_others():
    states = labelled("abcdef")
    stacked = np.concatenate(list(states.values()))
    labels = [name for name in states for _ in range(60)]
    whitening = fit_whitening(stacked, labels=labels)
    topics = fit_topics(states, known=["a", "b", "never seen"], whitening=whitening)
    assert topics is not None
    assert topics.means.shape[0] == 2
    assert topics.means[0] == pytest.approx(
        units(whitening.apply(states["a"])).mean(axis=0), abs=1e-6
    )
    rest = fit_whitening(
        np.concatenate([states[name] for name in "abcde"]),
        labels=[name for name in "abcde" for _ in range(60)],
        columns=topic_columns(STATE),
    )
    own = units(rest.apply(states["f"]))
    mean = own.mean(axis=0)
    inside = 1 - own @ mean <= topics.radius
    outside = [1 - units(rest.apply(states[name])) @ mean > topics.radius for name in "abcde"]
    assert inside.mean() > 0.9
    assert np.concatenate(outside).mean() > 0.9


def test_two_domains_or_a_few_prompts_say_nothing():
    states = labelled("ab")
    whitening = fit_whitening(np.concatenate(list(states.values())))
    assert fit_topics(states, known=[], whitening=whitening) is None
    few = labelled("abcd", count=7)
    assert fit_topics(few, known=[], whitening=whitening) is None
