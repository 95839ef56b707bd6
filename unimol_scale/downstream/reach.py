"""Whether molecules are larger than those that a model was pretrained on."""

from pathlib import Path

import numpy as np

from unimol_scale.store.schema import Int32
from unimol_scale.store.shards import open_store

ALMOST_ALL = 0.99  # of the store's molecules; its few largest taught the model little
WORTH_SAYING = 0.1  # of the molecules


def describe_larger(store_dir: Path, num_atoms_R: Int32) -> str:
    """Return a line on how many molecules are larger than almost all of a store; "" if few are.

    Args:
        store_dir: the pretraining store.
        num_atoms_R: int32, heavy atoms of each molecule, at least one.

    Returns:
        The line; "" for a store that has hydrogens as atoms too, whose counts are of another kind.

    Raises:
        StoreError: the store is missing or unfinished.
    """
    assert len(num_atoms_R) > 0, "a data set has molecules"
    manifest = open_store(store_dir).manifest
    if manifest.hydrogens:
        return ""
    histogram = manifest.splits["train"].size_histogram
    sizes = np.array([int(size) for size in histogram])
    counts = np.array(list(histogram.values()))
    order = np.argsort(sizes)
    reached = np.cumsum(counts[order]) >= ALMOST_ALL * counts.sum()
    usual = int(sizes[order][np.argmax(reached)])
    larger = int((num_atoms_R > usual).sum())
    if larger < WORTH_SAYING * len(num_atoms_R):
        return ""
    return (
        f"of {len(num_atoms_R):,} molecules, {larger:,} ({100 * larger / len(num_atoms_R):.1f} %) have more than "
        f"{usual} heavy atoms, which {100 * ALMOST_ALL:.0f} % of those in {store_dir} have not: the model has seen few "
        "as large"
    )
