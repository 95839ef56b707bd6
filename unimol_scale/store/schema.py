"""The content of a store: vocabularies, one molecule as a record, and many as flat columns. Imports NumPy and Arrow.

The Arrow schema in this file is the on-disk format of both backends. Shapes: one molecule has n atoms, m bonds and k
conformers; B molecules have A atoms and E bonds in total.
"""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unimol_scale.errors import StoreError
from unimol_scale.store.packing import pack

SCHEMA_VERSION = 2
ATOM_LABELS_VERSION = 3  # schema with atom labels, which earlier versions of the program cannot read
COORDINATE_SCALE = 0.001  # Å per unit of the int16 coordinates of force-field conformers: ±32.767 Å around the centre
PLANAR_SCALE = 0.01  # Å per unit of the int16 depiction: long chains are drawn at full length, ±327 Å
INT16_LIMIT = 32767
LABEL_PREFIX = "label:"  # prefix of a label's column name
ATOM_LABEL_PREFIX = "atom_label:"  # prefix of an atom label's column name

MISC = "misc"
# Codes are positions in these lists, in the order of the Open Graph Benchmark (OGB) and of the released weights. A
# value that is not in a list ending in "misc" gets that last code.
ATOM_VOCABULARIES: dict[str, tuple[str, ...]] = {
    "chirality": ("UNSPECIFIED", "TETRAHEDRAL_CW", "TETRAHEDRAL_CCW", "OTHER", MISC),
    "degree": (*map(str, range(11)), MISC),
    "formal_charge": (*map(str, range(-5, 6)), MISC),
    "num_hydrogens": (*map(str, range(9)), MISC),
    "radical_electrons": (*map(str, range(5)), MISC),
    "hybridization": ("SP", "SP2", "SP3", "SP3D", "SP3D2", MISC),
    "is_aromatic": ("False", "True"),
    "is_in_ring": ("False", "True"),
}
BOND_VOCABULARIES: dict[str, tuple[str, ...]] = {
    "bond_type": ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC", MISC),
    "stereo": ("NONE", "Z", "E", "CIS", "TRANS", "ANY"),
    "is_conjugated": ("False", "True"),
}
NUM_ATOM_FEATURES = len(ATOM_VOCABULARIES)
NUM_BOND_FEATURES = len(BOND_VOCABULARIES)
PACKED = {"atom_features": ATOM_VOCABULARIES, "bond_features": BOND_VOCABULARIES}

UInt8 = npt.NDArray[np.uint8]
UInt16 = npt.NDArray[np.uint16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class AtomLabel:
    """A label of every atom in every conformer: how many numbers per atom, and their unit."""

    width: int
    unit: str


ATOM_LABELS = {"forces": AtomLabel(3, "kcal/mol/Å"), "charges": AtomLabel(1, "e")}


class ConformerOrigin(enum.IntEnum):
    """Where the coordinates of a conformer come from."""

    FILE = 0  # read from the source, method unknown
    DFT = 1  # read from the source, density functional theory
    MMFF = 2  # ETKDG, then MMFF94 to convergence
    MMFF_UNCONVERGED = 3
    UFF = 4  # ETKDG, then UFF to convergence, where MMFF94 has no parameters
    UFF_UNCONVERGED = 5
    ETKDG = 6  # ETKDG alone: no force field has parameters
    FLAT = 7  # a 2D depiction instead of a conformer: from the source, or because only 2D was asked for


class ConformerStereo(enum.IntEnum):
    """How the stereochemistry of a conformer compares with that of its SMILES."""

    AS_GIVEN = 0  # the SMILES specifies every stereo element, and the conformer agrees
    OPEN = 1  # the SMILES leaves some unspecified, so conformers may be different stereoisomers; specified ones agree
    CHANGED = 2  # the conformer differs from the SMILES in a specified element


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the columns on disk depend on besides the schema version.

    Attributes:
        coordinate_scale: Å per unit when coordinates are int16, None when they are float32 Å.
        labels: names of the label columns, in order.
        atom_labels: names of the atom labels in the records, a subset of ``ATOM_LABELS``, in order.
    """

    coordinate_scale: float | None = COORDINATE_SCALE
    labels: tuple[str, ...] = ()
    atom_labels: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoleculeRecord:
    """One molecule. Atoms are in the order of ``smiles``.

    Attributes:
        id: name from the source, or made from the row number.
        smiles: canonical, isomeric, without explicit hydrogens.
        atomic_number: uint8 [n].
        atom_features: [n, 8] raw codes of ``ATOM_VOCABULARIES``.
        bond_index: [m, 2] atom indices; each bond once.
        bond_features: [m, 3] raw codes of ``BOND_VOCABULARIES``.
        coordinates: [k, n, 3] Å, k ≥ 1; each conformer is centred on its mean.
        planar_coordinates: [n, 2] Å, the 2D depiction, centred.
        conformer_origin: [k] codes of ``ConformerOrigin``.
        conformer_stereo: [k] codes of ``ConformerStereo``.
        energy: [k] kcal/mol; NaN where there is none. Force-field energies are absolute; energies from a file are
            relative to the molecule's lowest.
        scaffold: hash of the Murcko scaffold, 64 bits.
        key: hash of ``smiles``, 64 bits.
        labels: one number per label of the store, in the store's order and units; NaN where missing.
        atom_labels: name → [k, n, w] in the units of ``ATOM_LABELS``; NaN where missing.
    """

    id: str
    smiles: str
    atomic_number: UInt8
    atom_features: UInt8
    bond_index: UInt16
    bond_features: UInt8
    coordinates: Float32
    planar_coordinates: Float32
    conformer_origin: UInt8
    conformer_stereo: UInt8
    energy: Float32
    scaffold: int
    key: int
    labels: tuple[float, ...] = ()
    atom_labels: Mapping[str, Float32] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        n, m, k = len(self.atomic_number), len(self.bond_index), len(self.coordinates)
        assert min(n, k) > 0, "a record has at least one atom and one conformer"
        expected = {
            "atom_features": (n, NUM_ATOM_FEATURES),
            "bond_index": (m, 2),
            "bond_features": (m, NUM_BOND_FEATURES),
            "coordinates": (k, n, 3),
            "planar_coordinates": (n, 2),
            "conformer_origin": (k,),
            "conformer_stereo": (k,),
            "energy": (k,),
        }
        for name, shape in expected.items():
            assert getattr(self, name).shape == shape, f"{name} is {getattr(self, name).shape}, expected {shape}"
        for name, values in self.atom_labels.items():
            assert values.shape == (k, n, ATOM_LABELS[name].width), f"{name} is {values.shape}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoleculeColumns:
    """B molecules as flat columns without padding, as ``StoreSplit.gather`` returns them.

    Attributes:
        num_atoms: int32 [B].
        num_bonds: int32 [B].
        atomic_number: uint8 [A].
        atom_features: uint8 [A, 8] raw codes.
        bond_index: int32 [E, 2] atom indices within the molecule, from 0; each bond once.
        bond_features: uint8 [E, 3] raw codes.
        coordinates: float32 [A, 3] Å, centred per molecule.
        planar_coordinates: float32 [A, 3] Å, centred per molecule, z = 0.
        conformer_origin: uint8 [B] codes of ``ConformerOrigin`` for the chosen conformers.
        labels: float64 [B, L] in the order and units of the manifest; NaN where missing.
    """

    num_atoms: Int32
    num_bonds: Int32
    atomic_number: UInt8
    atom_features: UInt8
    bond_index: Int32
    bond_features: UInt8
    coordinates: Float32
    planar_coordinates: Float32
    conformer_origin: UInt8
    labels: Float64

    def take(self, order: Int64) -> "MoleculeColumns":
        """Return the molecules at the positions ``order`` [B'], in that order."""
        atoms = ragged_indices(_starts(self.num_atoms)[order], self.num_atoms[order])
        bonds = ragged_indices(_starts(self.num_bonds)[order], self.num_bonds[order])
        return MoleculeColumns(
            num_atoms=self.num_atoms[order],
            num_bonds=self.num_bonds[order],
            atomic_number=self.atomic_number[atoms],
            atom_features=self.atom_features[atoms],
            bond_index=self.bond_index[bonds],
            bond_features=self.bond_features[bonds],
            coordinates=self.coordinates[atoms],
            planar_coordinates=self.planar_coordinates[atoms],
            conformer_origin=self.conformer_origin[order],
            labels=self.labels[order],
        )

    @staticmethod
    def concatenate(parts: Sequence["MoleculeColumns"]) -> "MoleculeColumns":
        """Return the molecules of all parts, one part after another."""
        names = [field.name for field in dataclasses.fields(MoleculeColumns)]
        return MoleculeColumns(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def ragged_indices(starts: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Int64:
    """Return the positions of B runs laid end to end; run b is starts[b], starts[b] + 1, …, lengths[b] in all."""
    lengths = lengths.astype(np.int64, copy=False)
    shift = starts.astype(np.int64, copy=False) - _starts(lengths)
    return np.repeat(shift, lengths) + np.arange(int(lengths.sum()), dtype=np.int64)


def _starts(lengths: npt.NDArray[Any]) -> Int64:
    ends: Int64 = np.cumsum(lengths, dtype=np.int64)
    return ends - lengths.astype(np.int64, copy=False)


def arrow_schema(layout: Layout) -> pa.Schema:
    """Return the on-disk schema: the fixed columns, then one float64 column per label, then the atom labels."""
    number = pa.float32() if layout.coordinate_scale is None else pa.int16()
    columns = {
        "id": pa.string(),
        "smiles": pa.string(),
        "atomic_number": _list(pa.uint8()),
        "atom_features": _list(pa.uint32()),  # eight codes per atom, packed
        "bond_index": _list(pa.list_(_item(pa.uint16()), 2)),
        "bond_features": _list(pa.uint8()),  # three codes per bond, packed
        "coordinates": _list(pa.list_(_item(number), 3)),  # k·n triples, conformer by conformer
        "planar_coordinates": _list(pa.list_(_item(pa.int16()), 2)),
        "conformer_origin": _list(pa.uint8()),
        "conformer_stereo": _list(pa.uint8()),
        "energy": _list(pa.float32()),
        "scaffold": pa.uint64(),
        "key": pa.uint64(),
        **{f"{LABEL_PREFIX}{name}": pa.float64() for name in layout.labels},
        **{  # k·n values, conformer by conformer
            f"{ATOM_LABEL_PREFIX}{name}": _list(pa.list_(_item(pa.float32()), ATOM_LABELS[name].width))
            for name in layout.atom_labels
        },
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


def _item(kind: pa.DataType) -> pa.Field:
    return pa.field("item", kind, nullable=False)


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(_item(kind))


def encode(records: Sequence[MoleculeRecord], layout: Layout) -> pa.RecordBatch:
    """Return records as one Arrow batch; each record must have a value for every label of the layout.

    Raises:
        StoreError: a coordinate does not fit in 16 bits at the layout's scale.
    """
    schema = arrow_schema(layout)
    columns: dict[str, pa.Array] = {}
    for field in schema:
        if field.name.startswith((LABEL_PREFIX, ATOM_LABEL_PREFIX)):
            continue
        values = [getattr(record, field.name) for record in records]
        if field.name == "coordinates":
            values = [
                quantise(v.reshape(-1, 3), layout.coordinate_scale, record.id)
                for v, record in zip(values, records, strict=True)
            ]
        elif field.name in PACKED:
            values = [pack(v, PACKED[field.name]) for v in values]
        elif field.name == "planar_coordinates":
            values = [quantise(v, PLANAR_SCALE, record.id) for v, record in zip(values, records, strict=True)]
        columns[field.name] = _array(values, field.type)
    for at, name in enumerate(layout.labels):
        columns[f"{LABEL_PREFIX}{name}"] = pa.array([record.labels[at] for record in records], pa.float64())
    for name in layout.atom_labels:
        column = f"{ATOM_LABEL_PREFIX}{name}"
        columns[column] = _array([_atom_label(record, name) for record in records], schema.field(column).type)
    return pa.record_batch(list(columns.values()), schema=schema)


def _atom_label(record: MoleculeRecord, name: str) -> Float32:
    """Return one atom label of a record, conformer by conformer: [k·n, w]; NaN where the record has none."""
    width = ATOM_LABELS[name].width
    values = record.atom_labels.get(name)
    if values is None:
        return np.full((record.coordinates.shape[0] * record.coordinates.shape[1], width), np.nan, np.float32)
    return values.reshape(-1, width)


def quantise(coordinates: Float32, scale: float | None, name: str) -> npt.NDArray[Any]:
    """Return coordinates in Å as int16 multiples of ``scale``, or unchanged if ``scale`` is None.

    Raises:
        StoreError: a value is not finite or does not fit in 16 bits; the message names the molecule ``name``.
    """
    limit = np.inf if scale is None else INT16_LIMIT * scale
    if not np.all(np.abs(coordinates) < limit):
        raise StoreError(f"molecule {name!r} has coordinates beyond ±{limit:.1f} Å from its centre, or not finite")
    return coordinates if scale is None else np.rint(coordinates / np.float32(scale)).astype(np.int16)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if not pa.types.is_list(kind):
        return pa.array(values, kind)
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    item = kind.value_type
    width = item.list_size if pa.types.is_fixed_size_list(item) else None
    scalar = item.value_type if width else item
    flat = np.concatenate(values).reshape(-1) if values else np.zeros(0)
    leaves = pa.array(flat.astype(scalar.to_pandas_dtype(), copy=False), scalar)
    items = pa.FixedSizeListArray.from_arrays(leaves, type=item) if width else leaves
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=kind)
