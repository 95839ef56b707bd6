"""Plans of steps: made once, kept until the step is done, however far the loader is ahead."""

import numpy as np

from unimol_scale.data.loader import StepLoader, _Addresses
from unimol_scale.data.steps.order import Order
from unimol_scale.data.steps.planner import StepPlanner, ValidationPlanner

MOLECULES, BATCH, STEPS = 500, 8, 200


class Sizes:
    """A reader that knows sizes and reads nothing."""

    largest = 30

    def __len__(self):
        return MOLECULES

    def num_atoms(self, molecule_B):
        return (5 + molecule_B % 20).astype(np.int32)

    def prefetch(self, shards):
        pass

    def read(self, keys):
        return keys


class CountingOrder(Order):
    def __init__(self):
        super().__init__([MOLECULES], batch_size=BATCH, seed=0)
        self.asked = []

    def molecules(self, step):
        self.asked.append(step)
        return super().molecules(step)


def planner_of(kind=StepPlanner):
    order = CountingOrder()
    return kind(Sizes(), order, world_size=2, max_pairs=4_000), order


def test_a_loader_far_ahead_costs_no_second_plan():
    planner, order = planner_of()
    addresses = list(_Addresses(planner, 0, STEPS, rank=0, seed=0))  # 200 steps ahead of the trainer
    for step in range(STEPS):
        planner(step)
        planner.num_atoms_of(step)
        planner.forget(step)
    assert order.asked == list(range(STEPS))
    assert {step for step, _ in addresses} == set(range(STEPS))


def test_the_micro_batches_of_all_ranks_are_the_molecules_of_the_step():
    planner, order = planner_of()
    seen = [
        molecule
        for rank in range(2)
        for _, keys in _Addresses(planner, 3, 4, rank=rank, seed=0)
        for molecule in keys.molecule_B.tolist()
    ]
    assert sorted(seen) == sorted(order.molecules(3)[0].tolist())


def test_the_plan_of_a_step_lasts_while_the_trainer_is_at_it_and_no_longer(monkeypatch):
    monkeypatch.setattr("unimol_scale.data.loader.pack", lambda keys: keys)
    monkeypatch.setattr("unimol_scale.data.steps.random_streams.MoleculeKeys.unpack", lambda keys: keys, raising=False)
    planner, order = planner_of()
    loader = StepLoader(planner, Sizes(), lambda batch, keys, step: batch, rank=0, seed=0, workers=0, prefetch=1)
    for step, samples in enumerate(loader.steps(0, 50)):
        assert len(samples) == planner(step)[2].per_rank
        assert len(planner.num_atoms_of(step)) == BATCH
        assert len(planner._planned) <= 2
    assert order.asked == list(range(50))
    assert not planner._planned


def test_validation_cuts_its_molecules_once():
    planner, order = planner_of(ValidationPlanner)
    plans = [planner(repeat) for repeat in range(4)]
    assert order.asked == [0]
    assert [epochs.tolist() for _, epochs, _ in plans] == [[repeat] * BATCH for repeat in range(4)]
    assert all(plan[2] is plans[0][2] for plan in plans)


def test_micro_batches_side_by_side_come_in_equal_numbers_to_every_rank():
    def planner(at_once):
        order = Order([MOLECULES], batch_size=BATCH, seed=0)
        return StepPlanner(Sizes(), order, world_size=2, max_pairs=2000, at_once=at_once)

    plan = planner(2)(0)[2]
    assert plan.world_size == 2
    assert [len(plan.of_rank(rank)) % 2 for rank in range(2)] == [0, 0]
    assert plan.per_rank > planner(1)(0)[2].per_rank
    assert sorted(np.concatenate(plan.members).tolist()) == list(range(BATCH))
