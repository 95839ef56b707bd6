import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimol_scale.data.order import global_batch, pair_cost, plan_micro_batches
from unimol_scale.errors import ConfigError

sizes = st.lists(st.integers(1, 60), min_size=4, max_size=200).map(lambda n: np.array(n, dtype=np.int32))


@settings(deadline=None)
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


@settings(deadline=None)
@given(sizes, st.sampled_from([1, 2, 4]), st.integers(61**2, 200_000))
def test_micro_batches_cover_the_batch_fit_the_budget_and_are_equally_many_on_every_rank(num_atoms, ranks, budget):
    plan = plan_micro_batches(num_atoms, ranks, budget)
    shares = [plan.of_rank(rank) for rank in range(ranks)]
    assert {len(share) for share in shares} == {plan.per_rank}
    counted = [m for rank, share in enumerate(shares) for m in share[: plan.num_counted(rank)]]
    assert sorted(np.concatenate(counted)) == list(range(len(num_atoms)))
    assert max(pair_cost(num_atoms[m], len(m)) for m in counted) <= budget
    # A batch that divides among the ranks needs no filler.
    assert len(num_atoms) % ranks or all(plan.num_counted(rank) == plan.per_rank for rank in range(ranks))


def test_costs_are_balanced_and_little_is_padding():
    num_atoms = np.random.default_rng(0).integers(8, 40, size=1024).astype(np.int32)
    plan = plan_micro_batches(num_atoms, 8, 25_000)
    costs = np.array([pair_cost(num_atoms[m], len(m)) for m in plan.members])
    assert costs.max() / costs.mean() < 1.1
    assert (num_atoms + 1.0).__pow__(2).sum() / costs.sum() > 0.9


def test_a_budget_too_small_for_the_largest_molecule_names_it():
    with pytest.raises(ConfigError, match="60 atoms needs 3721 pairs"):
        plan_micro_batches(np.array([3, 60], dtype=np.int32), 1, 3000)
