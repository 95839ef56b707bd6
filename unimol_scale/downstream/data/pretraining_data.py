"""Finds the store that a model was pretrained on, and compares the size of its molecules with others."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import unimol_scale.config as strict
from unimol_scale.checkpoints.run.checkpoint_folder import trained_model
from unimol_scale.checkpoints.model_folder import read_config
from unimol_scale.checkpoints.shipped import shipped_folder
from unimol_scale.checkpoints.weights import find_checkpoint, local_path
from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.summary_file import manifest_hash_of
from unimol_scale.common.files import hash_file
from unimol_scale.data.molecule_reader import Hydrogens
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
        hydrogens: what the run did with hydrogens that the store has as atoms: ``data.hydrogens`` of its settings.
    """

    path: Path | None
    missing: str
    hydrogens: Hydrogens = "as_stored"


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
            if not isinstance(data, dict) or not data.get("path"):
                return PretrainingStore(path=None, missing=f"{folder / CONFIG_NAME} names no store")
            named, hydrogens = str(data["path"]), data.get("hydrogens", "as_stored")
            if is_url(named):
                missing = f"the store {named} is not on this machine"
                return PretrainingStore(path=None, missing=missing, hydrogens=hydrogens)
            known = manifest_hash_of(folder)
            for place in (Path(named), *(above / named for above in folder.absolute().parents)):
                manifest = place / MANIFEST_NAME
                if manifest.is_file() and known in (None, hash_file(manifest)):
                    return PretrainingStore(path=place, missing="", hydrogens=hydrogens)
            missing = f"the store {named} of {folder} is not here, or has changed"
            return PretrainingStore(path=None, missing=missing, hydrogens=hydrogens)
    if shipped_folder(str(pretrained)) is not None:
        card = f"unimol-scale model card {pretrained}"
        missing = f"{pretrained} comes without the molecules of its pretraining, of which `{card}` tells"
        return PretrainingStore(path=None, missing=missing)
    return PretrainingStore(path=None, missing=f"{pretrained} does not say what it was pretrained on")


def pretrained_with_hydrogens(pretrained: Path | str) -> bool | None:
    """Return whether a model has seen hydrogens as atoms: what its file says, else the run and its store.

    Returns:
        None: that is not known, as of a released file, or of an older run whose store is not here.

    Raises:
        CheckpointError: the model cannot be read.
    """
    folder = local_path(pretrained)
    if not folder.is_dir():
        return None
    checkpoint = find_checkpoint(folder)
    recorded = read_config(folder).hydrogens if checkpoint is None else trained_model(checkpoint).hydrogens
    if recorded is not None:
        return recorded
    store = store_of(folder)
    if store.hydrogens != "as_stored":
        return store.hydrogens == "keep"
    return None if store.path is None else open_store(store.path).manifest.hydrogens


def describe_larger(store_dir: Path, num_atoms_R: Int32, num_all_atoms_R: Int32 | None = None) -> str:
    """Return a line on how many molecules are larger than almost all of a store; "" if few are.

    Args:
        store_dir: the pretraining store.
        num_atoms_R: int32, heavy atoms of each molecule, at least one.
        num_all_atoms_R: int32, hydrogens counted, for a store whose sizes count them; None: not known.

    Returns:
        The line; for a store that has hydrogens as atoms, whose sizes count them, one that says so if those of the
        molecules are not known.

    Raises:
        StoreError: the store is missing or unfinished.
    """
    assert len(num_atoms_R) > 0, "a data set has molecules"
    manifest = open_store(store_dir).manifest
    if manifest.hydrogens and num_all_atoms_R is not None:
        num_atoms_R = num_all_atoms_R
    elif manifest.hydrogens:
        return f"whether molecules are larger than those in {store_dir} was not compared: it counts hydrogens as atoms"
    histogram = manifest.splits["train"].size_histogram
    if not histogram:
        return ""
    usual = size_quantile(histogram, ALMOST_ALL)
    larger = int((num_atoms_R > usual).sum())
    if larger < WORTH_SAYING * len(num_atoms_R):
        return ""
    counted = "atoms, hydrogens counted" if manifest.hydrogens else "heavy atoms"
    return (
        f"of {len(num_atoms_R):,} molecules, {larger:,} ({100 * larger / len(num_atoms_R):.1f} %) are larger than "
        f"{100 * ALMOST_ALL:.0f} % of those in {store_dir} ({usual} {counted}): the model has seen few as large"
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
