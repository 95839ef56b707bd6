"""Counts test molecules, and their scaffolds, that occur in the pretraining store or in the training rows.

Pretraining sees no labels, so a test molecule in the store does not invalidate a score, but readers should know of it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unimol_scale.store.schema import Int64
from unimol_scale.store.shards import StoreSplit, open_store

Bool = npt.NDArray[np.bool_]
UInt64 = npt.NDArray[np.uint64]

EXAMPLES = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leakage:
    """The overlap of test molecules with a store.

    Attributes:
        store: folder of the store.
        molecules_by_key: number of test molecules in the store, with the same canonical SMILES (stereo and charges
            included).
        by_scaffold: number of test molecules whose Murcko scaffold is in the store; molecules without rings do not
            count.
        total: number of test molecules.
        examples: SMILES of a few test molecules in the store.
    """

    store: str
    molecules_by_key: int
    by_scaffold: int
    total: int
    examples: tuple[str, ...]

    def describe(self) -> str:
        """Return the counts as one line."""
        if not self.molecules_by_key and not self.by_scaffold:
            return f"leakage: none of the {self.total:,} test molecules, nor their scaffolds, are in {self.store}"
        shown = f" (such as {', '.join(self.examples)})" if self.examples else ""
        return (
            f"leakage: of {self.total:,} test molecules, {_share(self.molecules_by_key, self.total)} are in "
            f"{self.store}{shown}, and {_share(self.by_scaffold, self.total)} have a scaffold that is also there"
        )


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.1f} %)"


def describe_overlap(
    test: Int64, others: Int64, *, key_M: UInt64, smiles: Sequence[str], scaffold_smiles: Sequence[str]
) -> str:
    """Return a line on test molecules and scaffolds that also occur in training or validation; "" if there are none.

    Args:
        test: numbers of the test rows, int64.
        others: numbers of the training and validation rows, int64.
        key_M: hashes of the canonical SMILES of all rows, uint64.
        smiles: [M] SMILES of all rows.
        scaffold_smiles: [M] scaffolds of all rows; "" for a molecule without rings, which shares no scaffold.
    """
    same = test[np.isin(key_M[test], key_M[others])].tolist()
    known = {scaffold_smiles[row] for row in others.tolist()} - {""}
    alike = sum(scaffold_smiles[row] in known for row in test.tolist())
    if not same and not alike:
        return ""
    examples = list(dict.fromkeys(smiles[row] for row in same))[:EXAMPLES]
    shown = f" (such as {', '.join(examples)})" if examples else ""
    return (
        f"of {len(test):,} test rows, {_share(len(same), len(test))} have a molecule that is also in training or "
        f"validation{shown}, and {_share(alike, len(test))} have a scaffold that is also there"
    )


def report_leakage(
    store_dir: Path, *, key_M: UInt64, scaffold_M: UInt64, smiles: Sequence[str], scaffold_smiles: Sequence[str]
) -> Leakage:
    """Count test molecules that are in either split of a store.

    Args:
        store_dir: the pretraining store.
        key_M: hashes of the canonical SMILES of the test molecules, uint64; at least one.
        scaffold_M: hashes of their scaffolds, uint64.
        smiles: [M] SMILES of the test molecules, used as examples.
        scaffold_smiles: [M] their scaffolds; "" for a molecule without rings.

    Raises:
        StoreError: the store is missing, unfinished or damaged.
    """
    assert len(key_M) == len(scaffold_M) == len(smiles) == len(scaffold_smiles) > 0, "a test set has molecules"
    store = open_store(store_dir)
    by_key_M, by_scaffold_M = np.zeros(len(smiles), np.bool_), np.zeros(len(smiles), np.bool_)
    for name in store.manifest.splits:
        split = store.split(name)
        by_key_M |= _known(split, "key", key_M)
        by_scaffold_M |= _known(split, "scaffold", scaffold_M)
    by_scaffold_M &= np.array([scaffold != "" for scaffold in scaffold_smiles])
    return Leakage(
        store=str(store_dir),
        molecules_by_key=int(by_key_M.sum()),
        by_scaffold=int(by_scaffold_M.sum()),
        total=len(smiles),
        examples=tuple(smiles[at] for at in np.flatnonzero(by_key_M)[:EXAMPLES].tolist()),
    )


def _known(split: StoreSplit, column: str, hashes_M: UInt64) -> Bool:
    """Return which of the hashes are in a column of a split."""
    wanted, place_M = np.unique(hashes_M, return_inverse=True)
    found = np.zeros(len(wanted), np.bool_)
    for chunk in split.column(column).chunks if len(split) else ():
        values = chunk.to_numpy()
        at = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
        found[at[wanted[at] == values]] = True
    return found[place_M]
