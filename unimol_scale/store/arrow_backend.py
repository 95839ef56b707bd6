"""Arrow shards: one file, one record batch, columns read as views of the memory map. Imports NumPy and Arrow only.

``ColumnViews`` also serves the LMDB backend, which decodes its records into the same Arrow columns.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unimol_scale.errors import StoreError
from unimol_scale.store.packing import num_bits, unpack
from unimol_scale.store.schema import (
    ATOM_LABEL_PREFIX,
    ATOM_VOCABULARIES,
    BOND_VOCABULARIES,
    LABEL_PREFIX,
    PACKED,
    PLANAR_SCALE,
    ConformerOrigin,
    ConformerStereo,
    Float32,
    Float64,
    Int32,
    Int64,
    Layout,
    MoleculeColumns,
    MoleculeRecord,
    arrow_schema,
    ragged_indices,
)

SUFFIX = ".arrow"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnViews:
    """The columns of one record batch as NumPy views; nothing is copied.

    Attributes:
        batch: the record batch, which owns the memory.
        atom_offsets: int32 [R + 1]; molecule r has the atoms from ``atom_offsets[r]`` to ``atom_offsets[r + 1]``. The
            other offsets do the same for bonds, coordinate rows and conformers.
        atom_features, bond_features: packed codes, [atoms] and [bonds].
        coordinates: [rows, 3] as stored, int16 units or float32 Å; a molecule has one row per atom and conformer.
        planar_coordinates: [atoms, 2] int16 units of ``PLANAR_SCALE``.
        conformer_origin, conformer_stereo: [conformers] codes.
        labels: one float64 [R] array per label.
        atom_labels: name of an atom label → float32 [rows, w].
    """

    batch: pa.RecordBatch
    atom_offsets: Int32
    bond_offsets: Int32
    coordinate_offsets: Int32
    conformer_offsets: Int32
    atomic_number: npt.NDArray[np.uint8]
    atom_features: npt.NDArray[np.uint32]
    bond_index: npt.NDArray[np.uint16]
    bond_features: npt.NDArray[np.uint8]
    coordinates: npt.NDArray[Any]
    planar_coordinates: npt.NDArray[np.int16]
    conformer_origin: npt.NDArray[np.uint8]
    conformer_stereo: npt.NDArray[np.uint8]
    labels: tuple[Float64, ...]
    atom_labels: dict[str, Float32]

    @staticmethod
    def of(batch: pa.RecordBatch) -> "ColumnViews":
        """Return the views of a batch that has the schema of ``arrow_schema``."""
        return ColumnViews(
            batch=batch,
            atom_offsets=_offsets(batch["atomic_number"]),
            bond_offsets=_offsets(batch["bond_index"]),
            coordinate_offsets=_offsets(batch["coordinates"]),
            conformer_offsets=_offsets(batch["conformer_origin"]),
            labels=tuple(batch[name].to_numpy() for name in batch.schema.names if name.startswith(LABEL_PREFIX)),
            atom_labels={
                name.removeprefix(ATOM_LABEL_PREFIX): _values(batch[name])
                for name in batch.schema.names
                if name.startswith(ATOM_LABEL_PREFIX)
            },
            **{
                name: _values(batch[name])
                for name in (
                    "atomic_number",
                    "atom_features",
                    "bond_index",
                    "bond_features",
                    "coordinates",
                    "planar_coordinates",
                    "conformer_origin",
                    "conformer_stereo",
                )
            },
        )

    def gather(self, rows: Int64, conformers: Int64 | None, coordinate_scale: float | None) -> MoleculeColumns:
        """Return the molecules ``rows`` [B] with the conformers ``conformers`` [B] (None: the first of each)."""
        atom_starts, bond_starts = self.atom_offsets[rows], self.bond_offsets[rows]
        num_atoms = self.atom_offsets[rows + 1] - atom_starts
        num_bonds = self.bond_offsets[rows + 1] - bond_starts
        chosen = np.zeros(len(rows), np.int64) if conformers is None else conformers
        atoms = ragged_indices(atom_starts, num_atoms)
        bonds = ragged_indices(bond_starts, num_bonds)
        points = ragged_indices(self.coordinate_offsets[rows] + chosen * num_atoms, num_atoms)
        coordinates = self.coordinates[points].astype(np.float32)
        if coordinate_scale is not None:
            coordinates *= np.float32(coordinate_scale)
        planar = np.zeros((len(atoms), 3), np.float32)
        planar[:, :2] = self.planar_coordinates[atoms] * np.float32(PLANAR_SCALE)
        return MoleculeColumns(
            num_atoms=num_atoms,
            num_bonds=num_bonds,
            atomic_number=self.atomic_number[atoms],
            atom_features=unpack(self.atom_features[atoms], ATOM_VOCABULARIES),
            bond_index=self.bond_index[bonds].astype(np.int32),
            bond_features=unpack(self.bond_features[bonds], BOND_VOCABULARIES),
            coordinates=coordinates,
            planar_coordinates=planar,
            conformer_origin=self.conformer_origin[self.conformer_offsets[rows] + chosen],
            labels=np.stack([label[rows] for label in self.labels], axis=1)
            if self.labels
            else np.empty((len(rows), 0)),
        )

    def record(self, row: int, coordinate_scale: float | None) -> MoleculeRecord:
        """Return one molecule with all its conformers, as ``encode`` received it, up to the precision of the store."""
        atoms, bonds, points, conformers = (
            slice(offsets[row], offsets[row + 1])
            for offsets in (self.atom_offsets, self.bond_offsets, self.coordinate_offsets, self.conformer_offsets)
        )
        coordinates = self.coordinates[points].astype(np.float32)
        if coordinate_scale is not None:
            coordinates *= np.float32(coordinate_scale)
        return MoleculeRecord(
            id=self.batch["id"][row].as_py(),
            smiles=self.batch["smiles"][row].as_py(),
            atomic_number=self.atomic_number[atoms].copy(),
            atom_features=unpack(self.atom_features[atoms], ATOM_VOCABULARIES),
            bond_index=self.bond_index[bonds].copy(),
            bond_features=unpack(self.bond_features[bonds], BOND_VOCABULARIES),
            coordinates=coordinates.reshape(-1, atoms.stop - atoms.start, 3),
            planar_coordinates=self.planar_coordinates[atoms] * np.float32(PLANAR_SCALE),
            conformer_origin=self.conformer_origin[conformers].copy(),
            conformer_stereo=self.conformer_stereo[conformers].copy(),
            energy=_values(self.batch["energy"])[conformers].copy(),
            scaffold=self.batch["scaffold"][row].as_py(),
            key=self.batch["key"][row].as_py(),
            labels=tuple(float(label[row]) for label in self.labels),
            atom_labels={
                name: values[points].reshape(-1, atoms.stop - atoms.start, values.shape[1])
                for name, values in self.atom_labels.items()
            },
        )

    def check(self) -> None:
        """Decode every record and compare the columns with each other and with the vocabularies.

        Raises:
            StoreError: two columns contradict each other, or a code or value is out of range; the message names it.
        """
        num_atoms, num_conformers = np.diff(self.atom_offsets), np.diff(self.conformer_offsets)
        num_bonds = np.diff(self.bond_offsets)
        if len(num_atoms) and min(num_atoms.min(), num_conformers.min(), num_bonds.min() + 1) < 1:
            raise StoreError("a molecule has no atom or no conformer")
        for name, expected in (
            ("atom_features", num_atoms),
            ("planar_coordinates", num_atoms),
            ("bond_features", num_bonds),
            ("coordinates", num_atoms * num_conformers),
            ("conformer_stereo", num_conformers),
            ("energy", num_conformers),
            *((f"{ATOM_LABEL_PREFIX}{name}", num_atoms * num_conformers) for name in self.atom_labels),
        ):
            if not np.array_equal(np.diff(_offsets(self.batch[name])), expected):
                raise StoreError(f"the length of the column {name} does not match its molecule")
        if np.any(self.bond_index >= np.repeat(num_atoms, num_bonds)[:, None]):
            raise StoreError("a bond refers to an atom that its molecule does not have")
        for name, vocabularies in PACKED.items():
            packed: npt.NDArray[Any] = getattr(self, name)
            limits = np.array([len(words) for words in vocabularies.values()])
            if np.any(unpack(packed, vocabularies) >= limits) or np.any(packed >> num_bits(vocabularies)):
                raise StoreError(f"the column {name} has a code outside its vocabulary")
        if np.any(self.conformer_origin > max(ConformerOrigin)) or np.any(self.atomic_number == 0):
            raise StoreError("an atomic number or a conformer origin is out of range")
        if np.any(self.conformer_stereo > max(ConformerStereo)):
            raise StoreError("a conformer's stereo code is out of range")
        if not np.all(np.isfinite(self.coordinates)):
            raise StoreError("a coordinate is not finite")
        if any(np.any(np.isinf(label)) for label in self.labels):
            raise StoreError("a label is infinite")
        if any(np.any(np.isinf(values)) for values in self.atom_labels.values()):
            raise StoreError("a label of an atom is infinite")
        self.batch.validate(full=True)


def _offsets(column: pa.ListArray) -> Int32:
    assert column.offset == 0, "shards are written as whole batches"
    offsets: Int32 = column.offsets.to_numpy()
    return offsets


def _values(column: pa.ListArray) -> npt.NDArray[Any]:
    values = column.values
    if not pa.types.is_fixed_size_list(values.type):
        flat: npt.NDArray[Any] = values.to_numpy()
        return flat
    triples: npt.NDArray[Any] = values.values.to_numpy().reshape(-1, values.type.list_size)
    return triples


class ArrowShard:
    """A memory-mapped Arrow shard, open for reading.

    Args:
        path: the shard file.
        layout: layout of the store's records, from its manifest.

    Raises:
        StoreError: the file is not an Arrow file of one batch with the expected columns.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            if reader.schema != arrow_schema(layout) or reader.num_record_batches != 1:
                raise StoreError(f"the columns of {path} do not match the store's schema")
            self._views = ColumnViews.of(reader.get_batch(0))
        except (pa.ArrowInvalid, OSError) as error:
            raise StoreError(f"{path} is not a readable Arrow shard: {error}") from error

    @property
    def batch(self) -> pa.RecordBatch:
        """All records of the shard, memory-mapped."""
        return self._views.batch

    @property
    def num_atoms(self) -> Int32:
        """Heavy (or all) atoms of each molecule, int32 [R]."""
        return np.diff(self._views.atom_offsets)

    @property
    def num_conformers(self) -> Int32:
        """Conformers of each molecule, int32 [R]."""
        return np.diff(self._views.conformer_offsets)

    def sizes(self, rows: Int64) -> tuple[Int32, Int32]:
        """Return the atoms and the conformers of the molecules ``rows`` [B]."""
        atoms, conformers = self._views.atom_offsets, self._views.conformer_offsets
        return atoms[rows + 1] - atoms[rows], conformers[rows + 1] - conformers[rows]

    def views(self, rows: Int64) -> tuple[ColumnViews, Int64]:
        """Return views that contain the molecules ``rows`` [B], and the row of each in these views, [B]."""
        return self._views, rows

    def close(self) -> None:
        """Do nothing: Arrow unmaps the file when its last view is deleted."""


def write(path: Path, batch: pa.RecordBatch) -> None:
    """Write one batch as an Arrow IPC file, uncompressed so that it can be read in place."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
