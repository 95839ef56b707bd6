"""Random keys of molecules, and random rotations."""

import numpy as np

from unimol_scale.data.steps.random_streams import MoleculeKeys


def keys(molecules, epoch=0, seed=0):
    molecule_B = np.asarray(molecules, dtype=np.int64)
    return MoleculeKeys(seed=seed, epoch_B=np.full(len(molecule_B), epoch, dtype=np.int64), molecule_B=molecule_B)


def rotation(seed):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))
