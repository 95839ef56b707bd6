"""Temperature sampling and the filling of a budget: properties over random scaffold sizes and items."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformer_gen.selection.sampling import (
    EVERYTHING,
    Items,
    UInt64,
    fill,
    mix,
    sortable,
    temperature_scores,
    unit_interval,
)

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=40)
TEMPERATURES = st.sampled_from([1e-5, 1e-3, 0.005, 0.1, 1.0, 1e9])


def sample(sizes: list[int], temperature: float, target: int, seed: int = 0) -> np.ndarray:
    """Return how many molecules of each scaffold are drawn."""
    of = np.repeat(np.arange(len(sizes)), sizes)
    ranks = np.concatenate([np.arange(size) for size in sizes])
    names = mix(np.arange(len(of), dtype=np.uint64), seed, 9)
    scores = temperature_scores(np.array(sizes)[of], ranks, unit_interval(mix(names, seed, 2)), len(of), temperature)
    cut = fill(Items(scores=scores, names=names, weights=np.ones(len(of), np.int64)), target)
    return np.bincount(of[cut.chosen(scores, names)], minlength=len(sizes))


@given(SIZES, TEMPERATURES, st.floats(0, 1), st.integers(0, 2**63 - 1))
def test_the_sample_fills_scaffolds_like_water(sizes: list[int], temperature: float, share: float, seed: int) -> None:
    target = round(share * sum(sizes))
    counts = sample(sizes, temperature, target, seed)
    assert counts.sum() == target
    # There is one level c: each count is within 1 of min(N, c P). In logarithms, so that no P is too small.
    N = np.array(sizes)
    log_p = N / N.sum() / temperature
    drawn, left = counts > 1, counts < N
    lower = (np.log(np.maximum(counts - 1, 1)) - log_p)[drawn].max(initial=-np.inf)
    upper = (np.log(counts + 1) - log_p)[left].min(initial=np.inf)
    assert lower <= upper + 1e-9


def test_temperature_decides_between_scaffolds_and_molecules() -> None:
    sizes = [1000, 200, 200, 20, 20, 20]
    assert sample(sizes, 1e9, 120).tolist() == pytest.approx([20] * 6, abs=1)
    hot, cold = sample(sizes, 1.0, 120), sample(sizes, 0.2, 120)
    assert cold[0] > hot[0] > hot[5]
    assert sample(sizes, 1e-4, 1100).tolist()[0] == 1000
    # softmax(P / τ) of these shares at τ = 0.2, without a scaffold that is used up.
    shares = np.exp(np.array(sizes) / sum(sizes) / 0.2)
    np.testing.assert_allclose(cold, 120 * shares / shares.sum(), atol=1.5)


def test_seventy_million_scaffolds_do_not_upset_the_softmax() -> None:
    scores = temperature_scores(np.array([1, 10**7]), np.array([0, 0]), np.array([0.5, 0.5]), 884_000_000, 1e-12)
    assert scores[1] < scores[0]


def test_the_sample_depends_on_the_seed_and_is_a_different_one() -> None:
    names = np.arange(100, dtype=np.uint64)
    u = unit_interval(mix(names, 0, 2))
    assert 0 < u.min() < 0.1
    assert 0.9 < u.max() < 1
    assert not np.array_equal(mix(names, 0, 2), mix(names, 1, 2))
    assert not np.array_equal(mix(names, 0, 2), mix(names, 0, 3))


def test_random_bits_are_the_same_on_every_machine() -> None:
    assert mix(np.array([0, 2**64 - 1], np.uint64), 2**63 - 1, 3).tolist() == [9789684938312817040, 7843657845338052292]


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_sortable_integers_compare_as_their_numbers(numbers: list[float]) -> None:
    values = np.array(numbers, np.float64)
    order = np.argsort(sortable(values), kind="stable")
    assert np.all(np.diff(values[order]) >= 0)


class Scattered:
    """The items in several places."""

    def __init__(self, places: list[Items]) -> None:
        self._places = places

    def histogram(self, first: int, shift: int) -> tuple[np.ndarray, np.ndarray]:
        counts, weights = zip(*(place.histogram(first, shift) for place in self._places), strict=True)
        return np.sum(counts, axis=0), np.sum(weights, axis=0)

    def between(self, first: int, last: int) -> Items:
        parts = [place.between(first, last) for place in self._places]
        return Items(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])})


def greedy(items: Items, budget: int) -> set[int]:
    chosen = set()
    for at in np.lexsort((items.names, items.scores)):
        if items.weights[at] <= budget:
            chosen.add(int(items.names[at]))
            budget -= int(items.weights[at])
    return chosen


def items_of(draw: tuple[list[int], list[int]]) -> Items:
    scores, weights = draw
    length = min(len(scores), len(weights))
    # Names above 2^53 and 2^63 that differ in their last bits only.
    names = np.arange(length, dtype=np.uint64) + np.uint64(2**64 - 1000)
    return Items(scores=np.array(scores[:length], np.uint64), names=names, weights=np.array(weights[:length], np.int64))


SCORES = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.integers(2**63, 2**63 + 5), st.just(7)), max_size=60)
WEIGHTS = st.lists(st.integers(1, 9), max_size=60)


@settings(max_examples=50)
@given(st.tuples(SCORES, WEIGHTS), st.integers(0, 200), st.sampled_from([1, 2, 60]))
def test_a_budget_is_filled_in_the_order_of_the_scores(
    draw: tuple[list[int], list[int]], budget: int, window: int
) -> None:
    items = items_of(draw)
    cut = fill(items, budget, largest_window=window)
    chosen = cut.chosen(items.scores, items.names)
    got = set(items.names[chosen].tolist())
    wanted = greedy(items, budget)
    if window == 60:
        assert got == wanted
    # A small window sees fewer of the small items that would still fit, never others.
    taken = int(items.weights[chosen].sum())
    assert taken <= budget
    assert got <= wanted
    assert wanted == got or taken > budget - 9
    halves = [slice(None, None, 2), slice(1, None, 2)]
    places = [Items(scores=items.scores[h], names=items.names[h], weights=items.weights[h]) for h in halves]
    again = fill(Scattered(places[::-1]), budget, largest_window=window)
    assert np.array_equal(again.chosen(items.scores, items.names), chosen)


def test_a_budget_for_all_takes_all() -> None:
    items = items_of(([1, 2**64 - 1], [3, 4]))
    assert fill(items, 7) is EVERYTHING
    assert EVERYTHING.chosen(items.scores, items.names).all()
    none: UInt64 = fill(items, 0).extra
    assert len(none) == 0


def test_a_small_item_fills_what_a_large_one_before_it_leaves() -> None:
    items = items_of(([0, 1, 2**62, 2**64 - 1], [4, 9, 3, 1]))
    assert fill(items, 8).chosen(items.scores, items.names).tolist() == [True, False, True, True]
    assert fill(items, 8, largest_window=1).chosen(items.scores, items.names).tolist() == [True, False, False, False]
