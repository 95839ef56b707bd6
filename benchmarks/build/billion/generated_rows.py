"""Generated rows, distributed like ZINC20's: hashes, scaffolds, sizes and text. Imports Arrow and NumPy.

A row depends only on its number, so any process can make any chunk and always makes the same one. The distributions
were fitted once to the tranches that ``ZINC20`` names; see ``benchmarks/results/billion.md``.
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from conformer_gen.selection.pieces import CURATED_SCHEMA
from conformer_gen.selection.sampling import mix, unit_interval
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.store.schema import ConformerOrigin, Int64, Layout, MoleculeRecord, encode

UInt64 = npt.NDArray[np.uint64]
# A row's number is mixed with these, so that its draws are independent.
DUPLICATE, EARLIER, REJECTED, SCAFFOLD, TEXT, KEY, SHARED, FAILED = range(100, 108)
SEED = 20
# Parts of SMILES that stay valid in any order; a molecule is a dozen of them and a carbon.
PARTS = pa.array(
    [
        *(
            "C",
            "CC",
            "N",
            "O",
            "C(C)",
            "C(=O)N",
            "C(=O)",
            "N(C)",
            "C(F)(F)",
            "S(=O)(=O)",
            "OC",
            "NC",
            "CN(CC)",
            "C(C)(C)",
        ),
        *("c1ccc(cc1)", "c1cnc(nc1)", "C1CCN(CC1)", "C1CCC(CC1)", "c1csc(n1)", "c1cc(on1)"),
    ]
)
NUM_PARTS = 9
SHAPES = 256  # different graphs with coordinates
RECORD_LAYOUT = Layout()


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowDistribution:
    """How rows are distributed.

    Two scaffolds have shares of their own: no scaffold, and the commonest one. The others are ranked: a molecule has
    the scaffold of rank r if a Lomax variable, for which P(R > r) = (1 + r / scale)^-shape, falls into [r, r + 1).

    Attributes:
        shape: shape of the Lomax distribution.
        scale: its scale, in scaffolds.
        acyclic: fraction of molecules without a ring.
        commonest: fraction of molecules with the commonest scaffold, benzene.
        duplicates: fraction of rows whose molecule has occurred before.
        rejected: fraction of rows that are not molecules.
        failed: fraction of molecules that get no conformer.
        mean_atoms: mean number of heavy atoms of a molecule.
        sd_atoms: standard deviation of that number.
    """

    shape: float
    scale: float
    acyclic: float
    commonest: float
    duplicates: float
    rejected: float
    failed: float
    mean_atoms: float
    sd_atoms: float

    def molecules(self, rows: UInt64) -> UInt64:
        """Return the number of each row's molecule: its own, or for a duplicate that of an earlier row, [R]."""
        earlier = (unit_interval(mix(rows, SEED, EARLIER)) * rows).astype(np.uint64)
        return np.where(self._drawn(rows, DUPLICATE, self.duplicates), earlier, rows)

    def rejects(self, rows: UInt64) -> npt.NDArray[np.bool_]:
        """Return which rows are not molecules, [R]."""
        return self._drawn(rows, REJECTED, self.rejected)

    def fails(self, rows: UInt64) -> npt.NDArray[np.bool_]:
        """Return which rows' molecules get no conformer, [R]."""
        return self._drawn(rows, FAILED, self.failed)

    def scaffolds(self, molecules: UInt64) -> UInt64:
        """Return the scaffold hash of each molecule, [M]."""
        u = unit_interval(mix(molecules, SEED, SCAFFOLD))
        rank = np.floor(self.scale * (u ** (-1 / self.shape) - 1))
        hashes = mix(rank.view(np.uint64), SEED, SCAFFOLD)  # ranks beyond 2^53 are still told apart by their bits
        own = unit_interval(mix(molecules, SEED, SHARED))
        hashes = np.where(own < self.acyclic + self.commonest, np.uint64(2), hashes)
        return np.where(own < self.acyclic, np.uint64(1), hashes)

    def _drawn(self, numbers: UInt64, stream: int, share: float) -> npt.NDArray[np.bool_]:
        drawn: npt.NDArray[np.bool_] = unit_interval(mix(numbers, SEED, stream)) < share
        return drawn


# Shape and scale are fitted to the number of different Murcko scaffolds among the first n of 118,969 molecules drawn
# from 24 tranches (n = 1,000: 941; 10,000: 8,474; 118,043, all with rings: 73,077), and to what Uni-Mol2 reports of
# the whole set, 73,725,454 of 884 million; the fit is within 7 % of each. Atoms, both shares and rejected rows (10)
# are those of the sample; the share without a conformer is ConformerConfig's. Tranches share no molecule: one per cent
# of duplicates is an assumption.
ZINC20 = RowDistribution(
    shape=0.288,
    scale=1911.0,
    acyclic=0.008,
    commonest=0.021,
    duplicates=0.01,
    rejected=0.0001,
    failed=0.02,
    mean_atoms=24.0,
    sd_atoms=4.7,
)


def smiles_of(rows: UInt64) -> pa.Array:
    """Return a text for each row that RDKit can parse, [R]."""
    bits = mix(rows, SEED, TEXT)
    parts = []
    for part in range(NUM_PARTS):
        drawn = (bits >> np.uint64(7 * part)) & np.uint64(127)
        parts.append(PARTS.take(pa.array((drawn % np.uint64(len(PARTS))).astype(np.int64))))
    return pc.binary_join_element_wise(*parts, "C", "")


def source_rows(first: int, last: int, block: int = 10_000) -> Iterator[SourceMolecule]:
    """Yield the rows [first, last) as a reader would."""
    for start in range(first, last, block):
        stop = min(start + block, last)
        for number, smiles in enumerate(smiles_of(np.arange(start, stop, dtype=np.uint64)).to_pylist(), start=start):
            yield SourceMolecule(id=f"ZINC{number:012d}", smiles=smiles)


def curated_table(first_row: int, positions: Int64, distribution: RowDistribution = ZINC20) -> pa.Table:
    """Return what curation leaves of rows: a table of ``CURATED_SCHEMA``.

    Args:
        first_row: number of the row at position 0 of the chunk.
        positions: [R] in the chunk.
        distribution: of the rows.
    """
    rows = (positions + first_row).astype(np.uint64)
    molecules, rejected = distribution.molecules(rows), distribution.rejects(rows)
    reason = pa.array(np.where(rejected, "radical", "")).cast(pa.string())
    nothing = {field.name: pa.nulls(len(rows), field.type) for field in CURATED_SCHEMA}
    names = pc.binary_join_element_wise("ZINC", pc.utf8_lpad(pa.array(rows).cast(pa.string()), 12, "0"), "")
    empty = pa.array(np.zeros(len(rows) + 1, np.int32))
    columns = {
        "position": pa.array(positions.astype(np.int32)),
        "id": names,
        "smiles": smiles_of(molecules),
        "key": pa.array(mix(molecules, SEED, KEY), mask=rejected),
        "scaffold": pa.array(distribution.scaffolds(molecules), mask=rejected),
        "origins": pa.ListArray.from_arrays(empty, pa.array([], pa.uint8())),
        "labels": pa.ListArray.from_arrays(empty, pa.array([], pa.float64())),
        "left_out": pa.array(np.zeros(len(rows), np.int32)),
        "reason": pc.if_else(pc.equal(reason, ""), None, reason),
        "detail": pc.if_else(pc.equal(reason, ""), None, pa.scalar("a neutral molecule with an unpaired electron")),
    }
    return pa.table({**nothing, **columns}, schema=CURATED_SCHEMA)


def records(curated: pa.Table, seed: int, distribution: RowDistribution = ZINC20) -> pa.RecordBatch:
    """Return records with random graphs and coordinates under the names and hashes of curated rows.

    Args:
        curated: rows of ``CURATED_SCHEMA`` that are molecules.
        seed: of the choice among graphs.
        distribution: of the graphs' sizes.
    """
    batch = _shapes(distribution).take(pa.array(np.random.default_rng(seed).integers(0, SHAPES, len(curated))))
    for name in ("id", "smiles", "scaffold", "key"):
        at = batch.schema.get_field_index(name)
        batch = batch.set_column(at, batch.schema.field(at), curated[name].combine_chunks())
    return batch


@functools.cache
def _shapes(distribution: RowDistribution) -> pa.RecordBatch:
    """Return some records that all others are made of; a process encodes them once."""
    random = np.random.default_rng(SEED)
    return encode([_record(random, distribution) for _ in range(SHAPES)], RECORD_LAYOUT)


def _record(random: np.random.Generator, distribution: RowDistribution) -> MoleculeRecord:
    """Return a ring of random atoms with random coordinates."""
    n = int(np.clip(random.normal(distribution.mean_atoms, distribution.sd_atoms), 4, 64))
    bonds = np.column_stack([np.arange(n), np.roll(np.arange(n), -1)]).astype(np.uint16)
    return MoleculeRecord(
        id="",
        smiles="",
        atomic_number=random.choice([6, 7, 8, 16], n, p=[0.74, 0.13, 0.11, 0.02]).astype(np.uint8),
        atom_features=np.tile(np.array([0, 2, 5, 1, 0, 1, 1, 1], np.uint8), (n, 1)),
        bond_index=bonds,
        bond_features=np.tile(np.array([3, 0, 1], np.uint8), (n, 1)),
        coordinates=random.normal(0, 3, (1, n, 3)).astype(np.float32),
        planar_coordinates=random.normal(0, 3, (n, 2)).astype(np.float32),
        conformer_origin=np.array([ConformerOrigin.MMFF], np.uint8),
        conformer_stereo=np.zeros(1, np.uint8),
        energy=random.normal(40, 20, 1).astype(np.float32),
        scaffold=0,
        key=0,
    )
