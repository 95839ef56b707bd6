"""Corruptions of a clean batch: masked tokens, noised coordinates, alignment, hidden features. NumPy only.

Every random number comes from the molecule's own key, so a corruption is the same on any rank and in any micro-batch.
Shapes: B molecules, A atoms (padded).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unimol_scale.data.steps.random_streams import MoleculeKeys

# One stream per kind of draw. A number must never change its meaning, or old runs could not be resumed.
STREAM_MASK_COUNT = 0
STREAM_MASK_ORDER = 1
STREAM_NOISE = 2
STREAM_HIDE = 3
STREAM_FLAT = 4
STREAM_CONFORMER = 5
STREAM_RELATION = 6
STREAM_OBJECTIVE = 7  # drawn per step, not per molecule
STREAM_VIEW = 8
STREAM_NOISY_NODES = 12  # used in fine-tuning

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


def choose_masked(keys: MoleculeKeys, valid_BA: Bool, fraction: float) -> Bool:
    """Choose tokens to mask, bool [B, A]: ``fraction`` of each molecule's atoms, with the count rounded at random."""
    count_B = valid_BA.sum(axis=1)
    target_B = np.floor(fraction * count_B + keys.uniform(STREAM_MASK_COUNT, 1)[:, 0])
    order_BA = np.where(valid_BA, keys.uniform(STREAM_MASK_ORDER, valid_BA.shape[1]), np.inf)
    rank_BA = order_BA.argsort(axis=1).argsort(axis=1)
    masked_BA: Bool = (rank_BA < target_B[:, None]) & valid_BA
    return masked_BA


def chosen_molecules(keys: MoleculeKeys, stream: int, probability: float) -> Bool:
    """Choose whole molecules, bool [B], each with ``probability``."""
    chosen: Bool = keys.uniform(stream, 1)[:, 0] < probability
    return chosen


def draw_groups(keys: MoleculeKeys, stream: int, shares: Sequence[float]) -> Int64:
    """Draw a group per molecule, int64 [B]: 0, 1, … with the probabilities ``shares``, or else the next number."""
    group_B: Int64 = np.searchsorted(np.cumsum(shares), keys.uniform(stream, 1)[:, 0], side="right")
    return group_B


def add_noise(
    keys: MoleculeKeys, coordinates_BA3: Float32, valid_BA: Bool, std: float | Float32, stream: int = STREAM_NOISE
) -> Float32:
    """Return coordinates plus Gaussian noise of standard deviation ``std`` Å on every axis of every real atom.

    ``std`` is one number, or one per molecule, [B].
    """
    B, A, _ = coordinates_BA3.shape
    scale = std[:, None, None] if isinstance(std, np.ndarray) else std
    noise_BA3 = keys.normal(stream, 3 * A).reshape(B, A, 3) * scale
    noised: Float32 = (coordinates_BA3 + noise_BA3 * valid_BA[..., None]).astype(np.float32)
    return noised


def align(moving_BA3: Float32, fixed_BA3: Float32, valid_BA: Bool) -> Float32:
    """Superpose each molecule on another geometry of itself, by least squares over its atoms (Kabsch 1976).

    Args:
        moving_BA3: Å, to be rotated and translated.
        fixed_BA3: Å, the target geometry.
        valid_BA: real atoms.

    Returns:
        float32 [B, A, 3], Å, 0 at padding. Reflections are never used, so chirality is kept. A molecule with a
        coordinate that is not finite gets only such coordinates; the other molecules are not affected.
    """
    weight_BA1 = valid_BA[..., None].astype(np.float64)
    count_B11 = weight_BA1.sum(axis=1, keepdims=True)
    moving = moving_BA3.astype(np.float64) * weight_BA1
    fixed = fixed_BA3.astype(np.float64) * weight_BA1
    fixed_mean = fixed.sum(axis=1, keepdims=True) / count_B11
    moving = (moving - moving.sum(axis=1, keepdims=True) / count_B11) * weight_BA1
    covariance_B33 = moving.transpose(0, 2, 1) @ ((fixed - fixed_mean) * weight_BA1)
    sound_B = np.isfinite(covariance_B33).all(axis=(1, 2))  # one that is not finite would make the whole batch fail
    u_B33, _, vt_B33 = np.linalg.svd(np.where(sound_B[:, None, None], covariance_B33, np.eye(3)))
    sign_B = np.where(np.linalg.det(u_B33 @ vt_B33) < 0, -1.0, 1.0)
    u_B33[:, :, 2] *= sign_B[:, None]
    aligned: Float32 = ((moving @ (u_B33 @ vt_B33) + fixed_mean) * weight_BA1).astype(np.float32)
    return aligned


def draw_relations(keys: MoleculeKeys, num_slots: int, probabilities: Sequence[float], *, symmetric: bool) -> Int64:
    """Draw one of several kinds for every pair of atoms, int64 [B, A, A], each with its probability.

    Draws are independent between molecules and between pairs, including the pair of an atom with itself. The draw of
    pair (i, j) does not depend on how many atoms the batch is padded to.

    Args:
        keys: of the molecules.
        num_slots: A.
        probabilities: of the kinds 0, 1, …; they sum to one.
        symmetric: whether (i, j) and (j, i) get the same draw.
    """
    i_AA, j_AA = np.indices((num_slots, num_slots))
    low_AA, high_AA = np.minimum(i_AA, j_AA), np.maximum(i_AA, j_AA)
    # Pairs are numbered shell by shell, by their larger index, so that more atoms only append numbers.
    if symmetric:
        number_AA = high_AA * (high_AA + 1) // 2 + low_AA
    else:
        number_AA = high_AA**2 + np.where(i_AA < j_AA, i_AA, high_AA + j_AA)
    u_BS = keys.uniform(STREAM_RELATION, int(number_AA.max()) + 1)
    upper = np.cumsum(probabilities)
    upper /= upper[-1]  # exactly 1: rounding must not select a kind with probability zero
    kind_BS = np.searchsorted(upper, u_BS, side="right")
    kind_BAA: Int64 = kind_BS[:, number_AA]
    return kind_BAA
