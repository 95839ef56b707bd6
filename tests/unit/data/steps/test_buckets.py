"""Shapes of micro-batches in buckets: few, never smaller than the molecules need, and within the budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimol_scale.data.steps.buckets import Buckets
from unimol_scale.data.steps.micro_batches import plan_micro_batches


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(61**2, 40_000), st.integers(1, 3))
def test_a_micro_batch_holds_its_molecules_within_the_budget(sizes, max_pairs, world_size):
    buckets, atoms_G = Buckets(max_pairs=max_pairs), np.array(sizes, np.int32)
    rounded_G = buckets.atoms(atoms_G)
    assert (rounded_G >= atoms_G).all()
    for members in plan_micro_batches(rounded_G, world_size, max_pairs).members:
        molecules, atoms = buckets.shape(len(members), int(atoms_G[members].max()))
        assert molecules >= len(members)
        assert molecules <= len(members) * 1.125
        assert atoms == rounded_G[members].max()
        assert molecules * (atoms + 1) ** 2 <= max_pairs


def test_nodes_are_multiples_of_four_up_to_the_budget():
    buckets = Buckets(max_pairs=30**2)
    assert buckets.atoms(np.arange(1, 30, dtype=np.int32)).tolist() == [
        *[3] * 3, *[7] * 4, *[11] * 4, *[15] * 4, *[19] * 4, *[23] * 4, *[27] * 4, 29, 29,
    ]  # fmt: skip


@pytest.mark.parametrize(("molecules", "rounded"), [(1, 1), (8, 8), (16, 16), (17, 18), (33, 36), (100, 104)])
def test_molecules_are_rounded_by_at_most_an_eighth(molecules, rounded):
    assert Buckets(max_pairs=10**6).shape(molecules, 11) == (rounded, 11)


def test_steps_of_a_library_have_few_shapes():
    buckets, draw = Buckets(max_pairs=40_000), np.random.default_rng(0)
    shapes, plain = set(), set()
    for _ in range(200):
        atoms_G = draw.normal(25, 6, 512).round().clip(4, 60).astype(np.int32)
        for members in plan_micro_batches(buckets.atoms(atoms_G), 1, 40_000).members:
            shapes.add(buckets.shape(len(members), int(atoms_G[members].max())))
        plain |= {(len(m), int(atoms_G[m].max())) for m in plan_micro_batches(atoms_G, 1, 40_000).members}
    assert len(shapes) < 80
    assert len(plain) > 4 * len(shapes)
