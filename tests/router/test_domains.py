"""Domains contain their own prompts, keep out others, and are found by the nearest centroid."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adaptive_moe.errors import RouterError
from adaptive_moe.router.boundary import Boundary, Outside, Placed, fit_boundary
from adaptive_moe.router.domains import (
    Domain,
    DomainIndex,
    Whitening,
    fit_domain,
    fit_whitening,
    nearest_distances,
    read_domain,
    write_domain,
)
from adaptive_moe.router.wording import wording
from tests.router.world import World, placed

PLAIN = Whitening(np.zeros(2, np.float32), np.eye(2, dtype=np.float32))


def ball(x: float, y: float, radius: float, label: str) -> Domain:
    return Domain(label, np.array([[x, y]], np.float32), radius, PLAIN.digest)


def test_whitened_background_has_unit_spread_in_every_direction() -> None:
    generator = np.random.default_rng(0)
    states = generator.normal(size=(4000, 6)) @ np.diag([1, 10, 100, 0.1, 5, 1.0]) + 7
    states[:, 5] += 3 * states[:, 0]
    whitened = fit_whitening(states).apply(states)
    assert whitened.mean(axis=0) == pytest.approx(np.zeros(6), abs=0.01)
    assert np.cov(whitened.T) == pytest.approx(np.eye(6), abs=0.15)


def test_whitening_keeps_at_most_64_directions_and_at_most_prompts_less_one() -> None:
    generator = np.random.default_rng(1)
    assert fit_whitening(generator.normal(size=(300, 100))).dimensions == 64
    assert fit_whitening(generator.normal(size=(5, 100))).dimensions == 4


def test_a_constant_state_is_ignored() -> None:
    states = np.random.default_rng(2).normal(size=(50, 3))
    states[:, 1] = 5.0
    moved = states.copy()
    moved[:, 1] = 1e6
    whitening = fit_whitening(states)
    assert np.array_equal(whitening.apply(states), whitening.apply(moved))


def test_labels_make_the_spread_that_within_domains() -> None:
    world = World(0)
    states = np.concatenate([world.states(name, 200) for name in "abcd"])
    labels = [name for name in "abcd" for _ in range(200)]
    whitened = fit_whitening(states, labels=labels).apply(states)
    within = whitened - np.repeat(whitened.reshape(4, 200, -1).mean(axis=1), 200, axis=0)
    assert np.cov(within.T) == pytest.approx(np.eye(within.shape[1]), abs=0.25)


@pytest.mark.parametrize("states", [np.zeros((1, 3)), np.ones((9, 3))])
def test_whitening_needs_distinct_prompts(states: np.ndarray) -> None:
    with pytest.raises(RouterError, match="distinct"):
        fit_whitening(states)


def test_states_of_another_model_are_refused_by_length() -> None:
    with pytest.raises(RouterError, match="3 values, this router expects 2"):
        PLAIN.apply(np.zeros(3, np.float32))


@pytest.mark.parametrize("count", [12, 60, 400])
def test_radius_holds_almost_all_new_prompts_whatever_the_number_seen(count: int) -> None:
    world = World(3)
    whitening = fit_whitening(
        np.concatenate([world.states(name, 100) for name in "abcd"]),
        labels=[name for name in "abcd" for _ in range(100)],
    )
    inside = []
    for seed in range(5):
        domain = fit_domain("a", world.states("a", count), whitening, seed=seed)
        new = whitening.apply(world.states("a", 400))
        inside.append(np.mean(nearest_distances(new, domain.centroids) <= domain.radius))
    assert np.mean(inside) >= 0.97


def test_radius_of_a_line_of_points_by_hand() -> None:
    # Two groups of two: left out in turn, each point is 4 or 6 from the other group's only centre.
    points = np.array([[0, 0], [2, 0], [5, 0], [7, 0]], np.float32)
    domain = fit_domain("line", points, PLAIN, max_centroids=1, seed=0, groups=list("xxyy"))
    distances = np.array([6.0, 4.0, 4.0, 6.0])
    limit = 4.5407 * math.sqrt(1 + 1 / 4) * distances.std(ddof=1)  # Student, 3 degrees, 99 %
    assert domain.radius == pytest.approx(distances.mean() + limit, rel=1e-4)
    assert domain.centroids.tolist() == [[3.5, 0.0]]


def test_a_domain_keeps_several_centroids_for_several_clusters() -> None:
    generator = np.random.default_rng(4)
    corners = np.array([[0, 0], [100, 0], [0, 100]])
    points = np.concatenate([corner + generator.normal(size=(20, 2)) for corner in corners])
    domain = fit_domain("corners", points.astype(np.float32), PLAIN, seed=0)
    assert nearest_distances(corners.astype(np.float32), domain.centroids).max() < 2
    assert 3 <= len(domain.centroids) <= 16


def test_one_prompt_makes_a_small_domain_and_none_is_refused() -> None:
    domain = fit_domain("one", np.ones((1, 2), np.float32), PLAIN, seed=0)
    assert domain.radius == pytest.approx(0.5 * math.sqrt(2))
    with pytest.raises(RouterError, match="no prompt"):
        fit_domain("none", np.ones((0, 2), np.float32), PLAIN, seed=0)


def test_same_seed_gives_the_same_domain() -> None:
    states = World(5).states("a", 80)
    whitening = fit_whitening(states)
    first, second = (fit_domain("a", states, whitening, seed=7) for _ in range(2))
    assert first.radius == second.radius
    assert np.array_equal(first.centroids, second.centroids)


def test_assignment_by_hand() -> None:
    index = DomainIndex(PLAIN)
    index.add(ball(0.0, 0.0, 1.0, "near"))
    index.add(ball(10.0, 0.0, 3.0, "far"))
    match = index.assign(np.array([8, 0], np.float32))
    assert (match.label, match.distance, match.radius) == ("far", 2.0, 3.0)
    assert match.ranking == (("far", 2.0), ("near", 8.0))


def test_every_domain_competes_with_all_its_centroids() -> None:
    index = DomainIndex(PLAIN)
    places = {"one": [[0, 0]], "three": [[9, 0], [0, 9], [9, 9]], "two": [[4, 0], [20, 0]]}
    for label, centroids in places.items():
        domain = replace(ball(0.0, 0.0, 1.0, label), centroids=np.array(centroids, np.float32))
        index.add(domain)
    match = index.assign(np.array([0, 5], np.float32))
    by_hand = (("three", 4.0), ("one", 5.0), ("two", math.sqrt(41)))
    assert [label for label, _ in match.ranking] == [label for label, _ in by_hand]
    assert [far for _, far in match.ranking] == pytest.approx([far for _, far in by_hand])


def test_outside_all_radii_nobody_is_named() -> None:
    index = DomainIndex(PLAIN)
    index.add(ball(0.0, 0.0, 1.0, "near"))
    match = index.assign(np.array([0, 2], np.float32))
    assert match.label is None
    assert (match.distance, match.radius) == (2.0, 1.0)


def test_a_wide_domain_takes_what_a_nearer_narrow_one_does_not_contain() -> None:
    index = DomainIndex(PLAIN)
    index.add(ball(0.0, 0.0, 1.0, "narrow"))
    index.add(ball(6.0, 0.0, 5.0, "wide"))
    match = index.assign(np.array([2, 0], np.float32))
    assert match.label == "wide"
    assert match.ranking[0][0] == "narrow"


def test_index_equals_a_loop_over_domains() -> None:
    world = World(6)
    whitening = fit_whitening(np.concatenate([world.states(name, 40) for name in "abcdefgh"]))
    domains = [fit_domain(name, world.states(name, 40), whitening, seed=0) for name in "abcdefgh"]
    index = DomainIndex(whitening)
    for domain in domains:
        index.add(domain)
    for vector in world.states("c", 20):
        point = whitening.apply(vector)
        by_hand = {
            domain.label: min(float(np.linalg.norm(point - c)) for c in domain.centroids)
            for domain in domains
        }
        match = index.assign(vector)
        assert match.ranking[0][0] == min(by_hand, key=lambda label: by_hand[label]) == "c"
        assert (match.label == "c") == (by_hand["c"] <= match.radius)
        assert dict(match.ranking) == pytest.approx(by_hand, abs=1e-3)


def test_removed_domains_no_longer_compete() -> None:
    index = DomainIndex(PLAIN)
    index.add(ball(0.0, 0.0, 5.0, "x"), key="first")
    index.add(ball(1.0, 0.0, 5.0, "x"), key="second")
    index.remove("first")
    assert "first" not in index
    assert index.assign(np.zeros(2, np.float32)).ranking == (("second", 1.0),)
    with pytest.raises(RouterError, match="first"):
        index.remove("first")


def test_an_empty_index_knows_nothing() -> None:
    match = DomainIndex(PLAIN).assign(np.zeros(2, np.float32))
    assert match.label is None
    assert match.ranking == ()


def test_domains_of_another_whitening_are_refused() -> None:
    with pytest.raises(RouterError, match="fit the domain again"):
        DomainIndex(PLAIN).add(replace(ball(0.0, 0.0, 1.0, "x"), whitening_digest="other"))


def test_a_domain_survives_its_file_byte_for_byte(tmp_path: Path) -> None:
    domain = ball(1.5, -2.0, 0.1, "chemistry")
    write_domain(tmp_path / "a.safetensors", domain)
    write_domain(tmp_path / "b.safetensors", domain)
    read = read_domain(tmp_path / "a.safetensors")
    assert (read.label, read.radius, read.whitening_digest) == ("chemistry", 0.1, PLAIN.digest)
    assert np.array_equal(read.centroids, domain.centroids)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def fit(inside: np.ndarray, outside: np.ndarray) -> Boundary | None:
    """A boundary between prompts that all say the same, each a source of its own."""
    groups = [str(index) for index in range(len(inside))]
    return fit_boundary(placed(inside), Outside(placed(outside)), groups=groups)


def test_a_boundary_tells_new_prompts_apart_and_survives_its_file(tmp_path: Path) -> None:
    world, later = World(3), World(4)
    outside = np.concatenate([world.states(name, 60) for name in "abc"])
    boundary = fit(world.states("g", 60), outside)
    assert boundary is not None
    own = later.states("g", 40)
    said = wording("what is it")
    inside = [boundary.membership(state, said) for state in own]
    others = [
        boundary.membership(state, said) for name in "abcd" for state in later.states(name, 20)
    ]
    assert min(inside) > 0.5 > max(others)

    write_domain(tmp_path / "domain", replace(ball(0.0, 0.0, 1.0, "g"), boundary=boundary))
    read = read_domain(tmp_path / "domain").boundary
    assert read is not None
    again = [read.membership(state, said) for state in own]
    assert again == pytest.approx(inside, abs=1e-6)


def test_boundaries_against_the_same_known_prompts_place_a_state_once(tmp_path: Path) -> None:
    world = World(3)
    known = Outside.shared(placed(np.concatenate([world.states(name, 90) for name in "abc"])))
    own, others = world.states("g", 40), placed(world.states("h", 40))
    groups = [str(index) for index in range(40)]
    boundaries = [
        fit_boundary(placed(own), outside, groups=groups)
        for outside in (known, known.and_also(others))
    ]
    for number, boundary in enumerate(boundaries):
        assert boundary is not None
        assert boundary.axes is known.axes
        domain = replace(ball(0.0, 0.0, 1.0, "g"), boundary=boundary)
        write_domain(tmp_path / str(number), domain)
    one, other = (read_domain(tmp_path / name).boundary for name in "01")
    assert one is not None
    assert other is not None
    assert one.axes is other.axes
    assert one.supports.shape != other.supports.shape


def test_a_boundary_needs_prompts_on_both_sides_and_states_of_its_length() -> None:
    states = World(3).states("a", 20)
    assert fit(states[:7], states) is None
    boundary = fit(states, World(3).states("b", 20))
    assert boundary is not None
    with pytest.raises(RouterError, match="expects"):
        boundary.membership(states[0][:-1], wording(""))


@pytest.mark.parametrize("spread", [0.0, 1e-12, 1e12])
def test_a_boundary_stays_finite_whatever_the_states_spread(spread: float) -> None:
    world = World(3)
    inside, outside = world.states("a", 40), world.states("b", 40)
    for states in (inside, outside):
        states[:, 0] *= spread
    boundary = fit(inside, outside)
    assert boundary is not None
    assert 0 <= boundary.membership(inside[0], wording("what is it")) <= 1


def test_states_that_are_all_the_same_tell_nothing_and_words_still_do() -> None:
    states = np.ones((30, 24), np.float32)
    inside, outside = placed(states, "the star"), placed(states, "the town")
    boundary = fit_boundary(inside, Outside(outside), groups=[str(index) for index in range(30)])
    assert boundary is not None
    assert boundary.membership(states[0], wording("a star")) > 0.5
    assert boundary.membership(states[0], wording("a town")) < 0.5


def test_words_tell_apart_what_lies_at_the_same_place() -> None:
    world, later = World(3), World(4)
    stars = ("Orion", "Lyra", "Cygnus", "Auriga", "Lepus", "Corvus")
    towns = ("Berlin", "Madrid", "Vienna", "Dublin", "Athens", "Warsaw")
    inside = Placed(world.states("a", 60), tuple(f"what is {name}?" for name in stars * 10))
    outside = Placed(world.states("a", 60), tuple(f"what is {name}?" for name in towns * 10))
    boundary = fit_boundary(
        inside, Outside(outside), groups=[str(index % 10) for index in range(60)]
    )
    assert boundary is not None
    for state in later.states("a", 20):
        named = [boundary.membership(state, wording(f"{name}, please")) for name in stars + towns]
        assert min(named[:6]) > 0.5 > max(named[6:])
        # Other forms of a word share its parts.
        assert boundary.membership(state, wording("Auriga's")) > 0.5


@pytest.mark.parametrize(
    "content", [b"", b"not safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"]
)
def test_other_files_hold_no_domain(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RouterError, match="no domain"):
        read_domain(tmp_path / "x")


def test_a_missing_file_holds_no_domain(tmp_path: Path) -> None:
    with pytest.raises(RouterError, match="no domain"):
        read_domain(tmp_path / "missing")
