"""Clusters of similar molecules: Butina's algorithm on Morgan fingerprints. Uses RDKit.

Shapes: N molecules.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rdkit import Chem, DataStructs, rdBase
from rdkit.Chem import rdFingerprintGenerator

from unimol_scale.downstream.data.splitting.row_groups import Groups, group_rows
from unimol_scale.errors import ConfigError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

MORGAN_RADIUS = 2
MORGAN_BITS = 2048
# Largest 1 − Tanimoto similarity of neighbours. Ash et al. (JCIM 2025) and related tools (Walters' useful_rdkit_utils)
# use 0.65. With much smaller values nearly every molecule of a diverse set is a cluster of its own, which makes the
# split a random one.
CLUSTER_DISTANCE = 0.65
MOST_CLUSTERED = 50_000  # comparing all pairs of so many takes minutes


def cluster_molecules(smiles: Sequence[str], distance: float = CLUSTER_DISTANCE) -> Int64:
    """Return the cluster of every molecule, int64 [N], counted from 0, by Butina's algorithm (JCICS 1999).

    The molecule with the most neighbours forms a cluster with all of them. The next cluster is formed by the remaining
    molecule that had the most neighbours at the beginning, with its remaining neighbours, and so on. Among equals the
    last one goes first, as in RDKit. The clusters are the same as RDKit's, whose function holds all distances in memory.

    Args:
        smiles: [N] SMILES written by RDKit; equal ones are in the same cluster.
        distance: largest 1 − Tanimoto similarity of neighbours, for Morgan fingerprints (radius 2, 2,048 bits).

    Raises:
        ConfigError: there are too many molecules to compare all pairs.
    """
    distinct = list(dict.fromkeys(smiles))
    if len(distinct) > MOST_CLUSTERED:
        raise ConfigError(
            f"clusters compare all pairs of molecules, and {len(distinct):,} molecules are more than "
            f"{MOST_CLUSTERED:,}; use a split by scaffold"
        )
    neighbours = _neighbours(distinct, distance)
    order = sorted(range(len(distinct)), key=lambda at: (len(neighbours[at]), at), reverse=True)
    cluster_N = np.full(len(distinct), -1, np.int64)
    found = 0
    for centre in order:
        if cluster_N[centre] >= 0:
            continue
        members = neighbours[centre]
        cluster_N[members[cluster_N[members] < 0]] = found
        cluster_N[centre] = found
        found += 1
    place = {text: at for at, text in enumerate(distinct)}
    return cluster_N[[place[text] for text in smiles]]


def group_clusters(rows: Int64, smiles: Sequence[str]) -> Groups:
    """Return groups of rows of similar molecules (``cluster_molecules``), in the order of their first rows.

    Raises:
        ConfigError: there are too many molecules.
    """
    numbers = cluster_molecules([smiles[row] for row in rows.tolist()])
    of_row = dict(zip(rows.tolist(), numbers.tolist(), strict=True))
    return group_rows(rows, [of_row.get(row, -1) for row in range(len(smiles))])


def _neighbours(smiles: Sequence[str], distance: float) -> list[Int32]:
    """Return the neighbours of each molecule, excluding itself."""
    generator: Any = rdFingerprintGenerator.GetMorganGenerator(radius=MORGAN_RADIUS, fpSize=MORGAN_BITS)  # type: ignore[no-untyped-call]
    with rdBase.BlockLogs():
        prints = [generator.GetFingerprint(_molecule(text)) for text in smiles]
    after: list[Int32] = []
    before: list[list[int]] = [[] for _ in smiles]
    for at, fingerprint in enumerate(prints):
        similarity = np.array(DataStructs.BulkTanimotoSimilarity(fingerprint, prints[at + 1 :]), np.float64)
        near = at + 1 + np.flatnonzero(1.0 - similarity <= distance)
        after.append(near.astype(np.int32))
        for other in near.tolist():
            before[other].append(at)
    return [np.concatenate([np.array(b, np.int32), a]) for b, a in zip(before, after, strict=True)]


def _molecule(text: str) -> Chem.Mol:
    molecule = Chem.MolFromSmiles(text)
    assert molecule is not None, f"RDKit has written {text!r} and cannot read it"
    return molecule
