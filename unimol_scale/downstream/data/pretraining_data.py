"""Finds the store that a model was pretrained on, and compares the sizes of its molecules with others."""

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

ALMOST_ALL = 0.99  # fraction of the store's molecules to compare with; its few largest molecules are ignored
WORTH_SAYING = 0.1  # fraction of larger molecules from which the user is warned


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingStore:
    """The store that a run was trained on.

    Attributes:
        path: folder of the store; None if it is not on this machine, or not known.
        missing: why there is no path; "" if there is one.
        hydrogens: the run's setting ``data.hydrogens``: how it treated hydrogens that are atoms in the store.
    """

    path: Path | None
    missing: str
    hydrogens: Hydrogens = "as_stored"


def store_of(pretrained: Path) -> PretrainingStore:
    """Find the store that a run names in its settings.

    Runs of earlier versions recorded a path relative to the folder in which they were started. It is searched relative
    to the current folder and to the folders above the run.

    Args:
        pretrained: the run, a folder in it, or the name of a model that comes with the package.
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
            missing = f"the store {named} of {folder} is not on this machine, or has changed"
            return PretrainingStore(path=None, missing=missing, hydrogens=hydrogens)
    if shipped_folder(str(pretrained)) is not None:
        card = f"unimol-scale model card {pretrained}"
        missing = f"{pretrained} comes without its pretraining molecules; `{card}` describes them"
        return PretrainingStore(path=None, missing=missing)
    return PretrainingStore(path=None, missing=f"{pretrained} does not say what it was pretrained on")


def pretrained_with_hydrogens(pretrained: Path | str) -> bool | None:
    """Return whether a model saw hydrogens as atoms in pretraining, as recorded in its file, its run or its store.

    Returns:
        True or False; None if it is not known, as for a released file, or an older run whose store is missing.

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
    """Return a line on how many molecules are larger than 99 % of the molecules in a store; "" if few are.

    Args:
        store_dir: the pretraining store.
        num_atoms_R: number of heavy atoms of each molecule, int32; at least one molecule.
        num_all_atoms_R: number of atoms including hydrogens, int32, for a store whose sizes include them; None if it is
            not known.

    Returns:
        The line. If the store's sizes include hydrogens and those of the molecules are not known, it says that sizes
        were not compared.

    Raises:
        StoreError: the store is missing or unfinished.
    """
    assert len(num_atoms_R) > 0, "a data set has molecules"
    manifest = open_store(store_dir).manifest
    if manifest.hydrogens and num_all_atoms_R is not None:
        num_atoms_R = num_all_atoms_R
    elif manifest.hydrogens:
        return f"molecule sizes were not compared with {store_dir}, because its sizes include hydrogens"
    histogram = manifest.splits["train"].size_histogram
    if not histogram:
        return ""
    usual = size_quantile(histogram, ALMOST_ALL)
    larger = int((num_atoms_R > usual).sum())
    if larger < WORTH_SAYING * len(num_atoms_R):
        return ""
    counted = "atoms including hydrogens" if manifest.hydrogens else "heavy atoms"
    return (
        f"of {len(num_atoms_R):,} molecules, {larger:,} ({100 * larger / len(num_atoms_R):.1f} %) are larger than "
        f"{100 * ALMOST_ALL:.0f} % of those in {store_dir} ({usual} {counted}): pretraining saw few molecules of that "
        "size"
    )


def size_quantile(histogram: Mapping[str, int], share: float) -> int:
    """Return the smallest size that at least a given fraction of the molecules do not exceed.

    Args:
        histogram: number of atoms (as text) → number of molecules, as in manifests; at least one molecule.
        share: the fraction, above 0 and at most 1.
    """
    sizes = sorted(int(size) for size in histogram)
    reached = np.cumsum([histogram[str(size)] for size in sizes]) >= share * sum(histogram.values())
    return sizes[int(np.argmax(reached))]
