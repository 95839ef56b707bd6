"""Finds the store that a model was pretrained on, and compares the size of its molecules with others."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import unimol_scale.config as strict
from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.summary_file import manifest_hash_of
from unimol_scale.common.files import hash_file
from unimol_scale.store.manifest import MANIFEST_NAME
from unimol_scale.store.remote import is_url
from unimol_scale.store.schema import Int32
from unimol_scale.store.shards import open_store

ALMOST_ALL = 0.99  # share of the store's molecules; its few largest do not count
WORTH_SAYING = 0.1  # share of larger molecules from which on the user is told


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingStore:
    """The store that a run was trained on.

    Attributes:
        path: of the store; None if it is not on this machine, or not known.
        missing: why there is no path; "" if there is one.
    """

    path: Path | None
    missing: str


def store_of(pretrained: Path) -> PretrainingStore:
    """Find the store that a run names in its settings.

    Runs of earlier versions have a path relative to the folder where they were started. It is looked for relative to
    the current folder and to the folders above the run.

    Args:
        pretrained: the run, or a folder in it.
    """
    for folder in (pretrained, *pretrained.parents[:2]):
        if (folder / CONFIG_NAME).is_file():
            data = strict.read_yaml(folder / CONFIG_NAME)[0].get("data")
            named = str(data["path"]) if isinstance(data, dict) and data.get("path") else None
            if named is None:
                return PretrainingStore(path=None, missing=f"{folder / CONFIG_NAME} names no store")
            if is_url(named):
                return PretrainingStore(path=None, missing=f"the store {named} is not on this machine")
            known = manifest_hash_of(folder)
            for place in (Path(named), *(above / named for above in folder.absolute().parents)):
                manifest = place / MANIFEST_NAME
                if manifest.is_file() and known in (None, hash_file(manifest)):
                    return PretrainingStore(path=place, missing="")
            return PretrainingStore(path=None, missing=f"the store {named} of {folder} is not here, or has changed")
    return PretrainingStore(path=None, missing=f"{pretrained} does not say what it was pretrained on")


def describe_larger(store_dir: Path, num_atoms_R: Int32) -> str:
    """Return a line on how many molecules are larger than almost all of a store; "" if few are.

    Args:
        store_dir: the pretraining store.
        num_atoms_R: int32, heavy atoms of each molecule, at least one.

    Returns:
        The line; for a store that has hydrogens as atoms, whose sizes count them, one that says so.

    Raises:
        StoreError: the store is missing or unfinished.
    """
    assert len(num_atoms_R) > 0, "a data set has molecules"
    manifest = open_store(store_dir).manifest
    if manifest.hydrogens:
        return f"whether molecules are larger than those in {store_dir} was not compared: it counts hydrogens as atoms"
    histogram = manifest.splits["train"].size_histogram
    if not histogram:
        return ""
    usual = size_quantile(histogram, ALMOST_ALL)
    larger = int((num_atoms_R > usual).sum())
    if larger < WORTH_SAYING * len(num_atoms_R):
        return ""
    return (
        f"of {len(num_atoms_R):,} molecules, {larger:,} ({100 * larger / len(num_atoms_R):.1f} %) are larger than "
        f"{100 * ALMOST_ALL:.0f} % of those in {store_dir} ({usual} heavy atoms): the model has seen few as large"
    )


def size_quantile(histogram: Mapping[str, int], share: float) -> int:
    """Return the smallest size that at least a share of the molecules do not exceed.

    Args:
        histogram: atoms (as text) → molecules, as manifests have it; at least one molecule.
        share: above 0, at most 1.
    """
    sizes = sorted(int(size) for size in histogram)
    reached = np.cumsum([histogram[str(size)] for size in sizes]) >= share * sum(histogram.values())
    return sizes[int(np.argmax(reached))]
