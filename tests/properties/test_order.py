import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimol_scale.data.steps.micro_batches import pair_cost, plan_micro_batches
from unimol_scale.data.steps.order import InOrder, Order, global_batch
from unimol_scale.errors import ConfigError

sizes = st.lists(st.integers(1, 60), min_size=4, max_size=200).map(lambda n: np.array(n, dtype=np.int32))


@given(st.integers(1, 700), st.integers(1, 64), st.integers(0, 2**31), st.integers(0, 3))
def test_every_molecule_exactly_once_an_epoch(molecules, batch, seed, epochs_before):
    first = epochs_before * molecules
    steps = range(first // batch, (first + molecules) // batch + 1)
    batches = [global_batch(molecules, batch, seed, step) for step in steps]
    index = np.concatenate([b[0] for b in batches])
    epoch = np.concatenate([b[1] for b in batches])
    assert sorted(index[epoch == epochs_before]) == list(range(molecules))


def test_epochs_and_seeds_are_shuffled_differently_and_a_step_is_always_the_same():
    first, again = (global_batch(1000, 1000, 7, 0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for other in (global_batch(1000, 1000, 7, 1)[0], global_batch(1000, 1000, 8, 0)[0], np.arange(1000)):
        assert np.mean(first == other) < 0.02


def test_an_order_of_a_billion_molecules_is_evaluated_where_it_is_needed():
    index, _ = global_batch(10**9, 4096, 0, 123_456)
    assert index.min() >= 0
    assert index.max() < 10**9
    assert len(np.unique(index)) == 4096
    # Spread over the whole range, not a neighbourhood.
    assert np.histogram(index, bins=8, range=(0, 10**9))[0].min() > 400


shards = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@given(shards, st.integers(1, 5), st.integers(1, 64), st.integers(0, 2**31), st.integers(0, 3))
def test_in_windows_too_every_molecule_comes_exactly_once_an_epoch(rows, window, batch, seed, epochs_before):
    order = Order(rows, batch_size=batch, seed=seed, window=window)
    molecules = sum(rows)
    first = epochs_before * molecules
    steps = range(first // batch, (first + molecules) // batch + 1)
    # Asked in any order, as loader processes do and as a resumed run does.
    batches = [order.molecules(step) for step in reversed(steps)]
    index = np.concatenate([b[0] for b in batches])
    epoch = np.concatenate([b[1] for b in batches])
    assert sorted(index[epoch == epochs_before]) == list(range(molecules))
    again = Order(rows, batch_size=batch, seed=seed, window=window)
    np.testing.assert_array_equal(again.molecules(steps[-1])[0], batches[0][0])


@given(shards, st.integers(1, 5), st.integers(1, 16), st.integers(0, 40))
def test_a_window_of_shards_is_all_that_is_needed_at_a_time_and_it_is_told_ahead(rows, window, batch, step):
    order = Order(rows, batch_size=batch, seed=3, window=window)
    shard_of = np.repeat(np.arange(len(rows)), rows)
    needed = list(dict.fromkeys(shard_of[order.molecules(step)[0]].tolist()))
    # A step that begins in the last place of a window goes on in the next ones.
    reach = window * (2 + batch // min(rows))
    assert set(needed) <= set(order.shards(step, reach))


def test_windows_are_shuffled_inside_and_differ_from_epoch_to_epoch():
    order = Order([100] * 8, batch_size=200, seed=0, window=2)
    shards_of = [set((order.molecules(step)[0] // 100).tolist()) for step in range(8)]
    assert all(len(pair) == 2 for pair in shards_of)
    assert set().union(*shards_of[:4]) == set(range(8))
    assert shards_of[:4] != shards_of[4:]
    first = order.molecules(0)[0]
    assert 0.3 < np.mean(first[:100] // 100 == first[0] // 100) < 0.7
    assert np.any(np.diff(first) != 1)


@given(sizes, st.sampled_from([1, 2, 4, 64]), st.integers(61**2, 200_000))
def test_micro_batches_cover_the_batch_fit_the_budget_and_are_equally_many_on_every_rank(num_atoms, ranks, budget):
    plan = plan_micro_batches(num_atoms, ranks, budget)
    shares = [plan.of_rank(rank) for rank in range(ranks)]
    assert {len(share) for share in shares} == {plan.per_rank}
    counted = [m for rank, share in enumerate(shares) for m in share[: plan.num_counted(rank)]]
    assert sorted(np.concatenate(counted)) == list(range(len(num_atoms)))
    assert max(pair_cost(num_atoms[m], len(m)) for m in counted) <= budget
    # A batch that divides among the ranks needs no filler.
    assert len(num_atoms) % ranks or all(plan.num_counted(rank) == plan.per_rank for rank in range(ranks))


def like_a_library(seed, count=1024):
    """Sizes like those of a drug-like library, a few very large molecules among them."""
    draw = np.random.default_rng(seed).gamma(5.0, 3.2, size=count)
    draw[:3] = (64, 80, 122)
    return draw.round().clip(2, 128).astype(np.int32)


def costs_of(plan, num_atoms):
    return np.array([pair_cost(num_atoms[m], len(m)) for m in plan.members])


@pytest.mark.parametrize("seed", range(3))
def test_little_is_padding_at_32_micro_batches(seed):
    num_atoms = like_a_library(seed)
    plan = plan_micro_batches(num_atoms, 8, 15_200)
    assert len(plan.members) == 32
    assert 1.0 - np.square(num_atoms + 1.0).sum() / costs_of(plan, num_atoms).sum() < 0.06


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_seldom_wait_for_one_another(ranks):
    num_atoms = like_a_library(0, 4096)
    plan = plan_micro_batches(num_atoms, ranks, 40_000)
    together = costs_of(plan, num_atoms).reshape(-1, ranks)
    assert together.mean(1).sum() > 0.95 * together.max(1).sum()
    assert together.sum(0).max() < 1.05 * together.sum(0).mean()


@pytest.mark.parametrize("seed", range(6))
def test_the_cut_is_the_cheapest_of_all(seed):
    num_atoms = np.sort(np.random.default_rng(seed).integers(3, 20, size=8)).astype(np.int32)
    budget = 2 * 21**2
    plan = plan_micro_batches(num_atoms, 1, budget)
    every = [
        [range(a, b) for a, b in itertools.pairwise([0, *cuts, 8])]
        for count in range(8)
        for cuts in itertools.combinations(range(1, 8), count)
    ]
    fitting = [cut for cut in every if all(pair_cost(num_atoms[list(m)], len(m)) <= budget for m in cut)]
    fewest = min(len(cut) for cut in fitting)
    cheapest = min(sum(pair_cost(num_atoms[list(m)], len(m)) for m in cut) for cut in fitting if len(cut) == fewest)
    assert len(plan.members) == fewest
    assert costs_of(plan, num_atoms).sum() == cheapest


def test_a_budget_too_small_for_the_largest_molecule_names_it():
    with pytest.raises(ConfigError, match="60 atoms needs 3721 pairs"):
        plan_micro_batches(np.array([3, 60], dtype=np.int32), 1, 3000)


@given(molecules=st.integers(1, 300), batch=st.integers(1, 50))
def test_in_order_every_molecule_comes_once_and_the_last_step_is_what_is_left(molecules, batch):
    order = InOrder(molecules, batch)
    steps = [order.molecules(step)[0] for step in range(order.num_steps)]
    assert np.array_equal(np.concatenate(steps), np.arange(molecules))
    assert all(len(step) == batch for step in steps[:-1])
    assert 0 < len(steps[-1]) <= batch
