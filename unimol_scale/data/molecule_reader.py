"""Reads the molecules of a split: chooses conformers, keeps or drops hydrogens, selects labels. NumPy only."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

import numpy as np

from unimol_scale.data.batch import MoleculeBatch, collate
from unimol_scale.data.corrupt import STREAM_CONFORMER
from unimol_scale.data.hydrogens import drop_hydrogens, heavy_counts
from unimol_scale.data.steps.micro_batches import Int32, Int64
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.errors import ConfigError, nearest
from unimol_scale.store.shards import Store, StoreSplit

Conformers = Literal["random", "in_turn", "first"]
Hydrogens = Literal["as_stored", "keep", "drop"]


class MoleculeReader:
    """Reads the molecules of one split as padded batches. Instances are pickled to loader processes.

    Args:
        store: a finished store.
        split: "train" or "valid".
        conformers: ``random``: one drawn in every epoch; ``in_turn``: a different one each epoch, starting from a
            random one, until all have been used; ``first``: always the first.
        hydrogens: ``keep`` requires a store with hydrogens as atoms, ``drop`` leaves them out.
        labels: names of the labels to put into the batches, in this order.

    Raises:
        StoreError: the store has no such split.
        ConfigError: the store lacks one of the labels, or hydrogens that should be kept.
    """

    def __init__(
        self,
        store: Store,
        split: str,
        *,
        conformers: Conformers = "random",
        hydrogens: Hydrogens = "as_stored",
        labels: tuple[str, ...] = (),
    ) -> None:
        manifest = store.manifest
        if hydrogens == "keep" and not manifest.hydrogens:
            raise ConfigError(
                f"data.hydrogens is keep, but the store at {store.location} has no hydrogens as atoms; build one "
                "with: unimol-scale build --hydrogens"
            )
        known = list(manifest.labels)
        for name in labels:
            if name not in known:
                has = nearest(name, known) if known else "it has none"
                raise ConfigError(f"data.labels: the store at {store.location} has no label {name!r}; {has}")
        self.split: StoreSplit = store.split(split)
        self._conformers = conformers
        self._drops = hydrogens == "drop" and manifest.hydrogens
        self._label_columns = [known.index(name) for name in labels]

    def __len__(self) -> int:
        return len(self.split)

    @property
    def largest(self) -> int:
        """Atoms of the largest molecule, including stored hydrogens."""
        return max(int(size) for size in self.split.entry.size_histogram)

    def num_atoms(self, molecule_B: Int64) -> Int32:
        """Return the atoms of molecules as they are read, int32 [B]."""
        if self._drops:
            return heavy_counts(self.split.gather(molecule_B))
        return self.split.sizes(molecule_B)[0]

    def read(self, keys: MoleculeKeys) -> MoleculeBatch:
        """Return the molecules of ``keys``, at their epochs, as a padded batch."""
        columns = self.split.gather(keys.molecule_B, self._chosen(keys))
        if self._drops:
            columns = drop_hydrogens(columns)
        return collate(replace(columns, labels=columns.labels[:, self._label_columns]))

    def prefetch(self, shards: Iterable[int]) -> None:
        """Tell the store which shards are needed next, in that order."""
        self.split.prefetch(shards)

    def _chosen(self, keys: MoleculeKeys) -> Int64 | None:
        """Return the conformer of each molecule, int64 [B]; None stands for the first of each."""
        if self._conformers == "first":
            return None
        num_conformers_B = self.split.sizes(keys.molecule_B)[1]
        if self._conformers == "random":
            return np.floor(keys.uniform(STREAM_CONFORMER, 1)[:, 0] * num_conformers_B).astype(np.int64)
        timeless = replace(keys, epoch_B=np.zeros_like(keys.epoch_B))
        first_B = np.floor(timeless.uniform(STREAM_CONFORMER, 1)[:, 0] * num_conformers_B).astype(np.int64)
        chosen_B: Int64 = (first_B + keys.epoch_B) % num_conformers_B
        return chosen_B
