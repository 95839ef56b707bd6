"""How molecules are distributed over scaffolds, counted slice by slice. Uses RDKit to name the largest ones."""

import collections
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rdkit import Chem

from conformer_gen.chemistry.curate import scaffold_smiles
from conformer_gen.selection.pieces import read_chunk
from conformer_gen.selection.sampling import Int64, UInt64

CURVE_POINTS = 200
TOP_SCAFFOLDS = 10


def starts_of_runs(values: UInt64) -> Int64:
    """Return where runs of equal values begin."""
    return np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]])[: len(values)])


def runs(values: UInt64) -> tuple[UInt64, Int64, Int64]:
    """Return value, start and length of each run of equal values."""
    starts = starts_of_runs(values)
    return values[starts], starts, np.diff(starts, append=len(values))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Largest:
    """A large scaffold: its hash, its number of molecules, and where to find one of them."""

    scaffold: int
    molecules: int
    chunk: int
    position: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaffolds:
    """How molecules are distributed: number of molecules of a scaffold → number of such scaffolds, and the largest."""

    sizes: Mapping[int, int] = dataclasses.field(default_factory=dict)
    top: tuple[Largest, ...] = ()

    @property
    def number(self) -> int:
        """Number of different scaffolds."""
        return sum(self.sizes.values())

    @staticmethod
    def of(table: pa.Table) -> "Scaffolds":
        """Count molecules that are grouped by scaffold."""
        hashes, starts, sizes = runs(table["scaffold"].to_numpy())
        top = []
        for at in np.lexsort((hashes, -sizes))[:TOP_SCAFFOLDS].tolist():
            molecule = table.slice(int(starts[at]), 1)
            place = {name: molecule[name][0].as_py() for name in ("chunk", "position")}
            top.append(Largest(scaffold=int(hashes[at]), molecules=int(sizes[at]), **place))
        return Scaffolds(sizes=collections.Counter(sizes.tolist()), top=tuple(top))

    def plus(self, other: "Scaffolds") -> "Scaffolds":
        """Return the sum of both; no scaffold may be in both."""
        top = sorted((*self.top, *other.top), key=lambda largest: (-largest.molecules, largest.scaffold))
        sizes = collections.Counter(self.sizes)
        sizes.update(other.sizes)
        return Scaffolds(sizes=sizes, top=tuple(top[:TOP_SCAFFOLDS]))

    def to_table(self) -> pa.Table:
        """Return a table with one row."""
        top = [dataclasses.astuple(largest) for largest in self.top]
        return pa.table(
            {
                "sizes": pa.array([list(self.sizes)], pa.list_(pa.int64())),
                "counts": pa.array([list(self.sizes.values())], pa.list_(pa.int64())),
                "scaffold": pa.array([[row[0] for row in top]], pa.list_(pa.uint64())),
                "place": pa.array([[number for row in top for number in row[1:]]], pa.list_(pa.int64())),
            }
        )

    @staticmethod
    def from_table(table: pa.Table) -> "Scaffolds":
        """Read one or more rows back, summed."""
        total = Scaffolds()
        for row in table.to_pylist():
            places = np.array(row["place"], np.int64).reshape(-1, 3).tolist()
            top = [
                Largest(scaffold=scaffold, molecules=place[0], chunk=place[1], position=place[2])
                for scaffold, place in zip(row["scaffold"], places, strict=True)
            ]
            sizes = dict(zip(row["sizes"], row["counts"], strict=True))
            total = total.plus(Scaffolds(sizes=sizes, top=tuple(top)))
        return total

    def curve(self) -> tuple[tuple[int, int], ...]:
        """Return (rank, molecules) at ranks about evenly spaced in their logarithm, from rank 1."""
        if not self.sizes:
            return ()
        sizes = np.array(sorted(self.sizes, reverse=True), np.int64)
        reached = np.cumsum([self.sizes[size] for size in sizes.tolist()])
        ranks = np.unique(np.geomspace(1, reached[-1], CURVE_POINTS).round().astype(np.int64))
        at = np.searchsorted(reached, ranks)
        return tuple(zip(ranks.tolist(), sizes[at].tolist(), strict=True))

    def named(self, work: Path) -> dict[str, int]:
        """Return the SMILES of the largest scaffolds and their molecules, the largest first."""
        names = {}
        for largest in self.top:
            table = read_chunk(work, largest.chunk)
            row = table.filter(pc.equal(table["position"], largest.position))
            names[scaffold_smiles(Chem.MolFromSmiles(row["smiles"][0].as_py()))] = largest.molecules
        return names
