import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.random_keys import keys, rotation
from unimol_scale.data import corrupt


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(3, 12))
def test_alignment_undoes_a_rigid_motion_and_never_reflects(seed, atoms):
    rng = np.random.default_rng(seed)
    fixed = rng.normal(size=(2, atoms + 2, 3)).astype(np.float32)
    valid = np.ones((2, atoms + 2), dtype=bool)
    valid[1, atoms:] = False
    moving = (fixed @ rotation(seed + 1) + rng.normal(size=3)).astype(np.float32)
    aligned = corrupt.align(moving, fixed, valid)
    np.testing.assert_allclose(aligned[valid], fixed[valid], atol=2e-5)
    assert not aligned[~valid].any()
    mirrored = corrupt.align(fixed * np.float32([1, 1, -1]), fixed, valid)
    assert atoms < 4 or np.abs(mirrored - fixed)[valid].max() > 1e-3


def test_one_atom_is_aligned_onto_itself():
    fixed = np.array([[[1.0, 2.0, 3.0]]], dtype=np.float32)
    aligned = corrupt.align(fixed + 5, fixed, np.ones((1, 1), dtype=bool))
    np.testing.assert_allclose(aligned, fixed, atol=1e-6)


def test_fifteen_percent_of_tokens_are_masked_on_average_and_never_padding():
    valid = np.arange(12)[None, :] < np.full((4000, 1), 9)
    masked = corrupt.choose_masked(keys(range(4000)), valid, 0.15)
    assert not masked[~valid].any()
    assert set(masked.sum(1).tolist()) == {1, 2}
    assert abs(masked.sum() / valid.sum() - 0.15) < 0.003
    # Every position is as likely as any other.
    share = masked[:, :9].mean(0)
    assert share.max() - share.min() < 0.04


def test_noise_has_the_asked_standard_deviation_and_leaves_padding_alone():
    valid = np.ones((3000, 5), dtype=bool)
    valid[:, 4] = False
    clean = np.zeros((3000, 5, 3), dtype=np.float32)
    noised = corrupt.add_noise(keys(range(3000)), clean, valid, 0.2)
    assert abs(noised[valid].std() - 0.2) < 0.003
    assert not noised[~valid].any()
