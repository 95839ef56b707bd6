"""A simple loader with which the data path is compared: it treats one molecule at a time.

Like public loaders of pretraining data it keeps pickled records of SMILES and coordinates, and at every visit makes the
graph with RDKit, shortest paths with Floyd–Warshall (SciPy's, compiled), masks, noise and the alignment of that one
molecule; the batch is padded at the end. It is a fair baseline: feature codes come from tables, nothing is computed
twice. Shapes: n atoms; B molecules padded to A atoms.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rdkit import Chem
from scipy.sparse.csgraph import floyd_warshall

from conformer_gen.chemistry.graph import molecule_graph
from unimol_scale.data import vocabulary as vocab
from unimol_scale.store.shards import StoreSplit

MASK_FRACTION, NOISE_STD, HIDE, FLAT = 0.15, 0.2, 0.5, 0.5
Item = dict[str, npt.NDArray[Any]]


def pickled_records(split: StoreSplit, molecules: npt.NDArray[np.int64]) -> list[bytes]:
    """Return one pickle a molecule: its SMILES, coordinates and depiction."""
    smiles, records = split.smiles(molecules), []
    for molecule, text in zip(molecules, smiles, strict=True):
        columns = split.gather(np.array([molecule]))
        records.append(pickle.dumps((text, columns.coordinates, columns.planar_coordinates)))
    return records


def plain_item(record: bytes, rng: np.random.Generator) -> Item:
    """Return one molecule with its graph, corrupted as the denoising objective does."""
    smiles, coordinates, planar = pickle.loads(record)
    graph = molecule_graph(Chem.MolFromSmiles(smiles))
    n = len(graph.atomic_number)
    bonds = np.zeros((n, n, vocab.NUM_BOND_FEATURES), dtype=np.int64)
    i, j = graph.bond_index[:, 0], graph.bond_index[:, 1]
    bonds[i, j] = bonds[j, i] = graph.bond_features + 1
    paths = floyd_warshall(bonds[..., 0] > 0, directed=False, unweighted=True)
    hidden = rng.random() < HIDE
    clean = planar if not hidden and rng.random() < FLAT else coordinates
    token = graph.atomic_number.astype(np.int64)
    masked = np.zeros(n, dtype=bool)
    masked[rng.choice(n, int(MASK_FRACTION * n + rng.random()), replace=False)] = True
    return {
        "token": np.where(masked, vocab.TOKEN_MASK, token),
        "target": token,
        "masked": masked,
        "atom_features": graph.atom_features.astype(np.int64),
        "degree": (bonds[..., 0] > 0).sum(1),
        "bonds": bonds,
        "paths": np.where(np.isinf(paths), vocab.PATH_UNREACHABLE, paths).astype(np.int64),
        "hidden": np.array(hidden),
        "noised": _aligned(clean + rng.normal(size=clean.shape) * NOISE_STD, clean),
        "clean": clean,
    }


def _aligned(moving: npt.NDArray[Any], fixed: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    centre = fixed.mean(0)
    moving = moving - moving.mean(0)
    u, _, vt = np.linalg.svd(moving.T @ (fixed - centre))
    u[:, 2] *= np.sign(np.linalg.det(u @ vt))
    aligned: npt.NDArray[np.float32] = (moving @ (u @ vt) + centre).astype(np.float32)
    return aligned


def plain_collate(items: Sequence[Item]) -> dict[str, torch.Tensor]:
    """Pad each array of the items to the largest molecule and stack them into tensors."""
    largest = max(len(item["token"]) for item in items)
    batch = {}
    for name, first in items[0].items():
        # Every axis whose length is the number of atoms is padded.
        axes = {"bonds": 2, "paths": 2, "hidden": 0}.get(name, 1)
        padded = np.zeros((len(items), *[largest] * axes, *first.shape[axes:]), dtype=first.dtype)
        for row, item in enumerate(items):
            padded[(row, *[slice(len(item["token"]))] * axes)] = item[name]
        batch[name] = torch.from_numpy(padded)
    return batch
