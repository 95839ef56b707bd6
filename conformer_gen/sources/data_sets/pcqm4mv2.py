"""PCQM4Mv2: molecules with a DFT geometry and the HOMO-LUMO gap (OGB-LSC, Hu et al. 2021).

Two forms are read. The original one is a CSV of all molecules and an SDF whose record i is the geometry of row i. The
SDF covers only the first rows (the training molecules); later rows have no geometry, and the test rows have no gap
either. The graph comes from the SDF, whose atom order differs from that of the SMILES. The other form is a CSV whose
SMILES carry hydrogens and coordinates in ChemAxon's extension.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from conformer_gen.sources.columns import ID_NAMES, find_column, find_smiles, number
from conformer_gen.sources.inputs.file_names import bare_suffix
from conformer_gen.sources.inputs.text_streams import TextStream, read_streams
from conformer_gen.sources.lines import smiles_problem
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from conformer_gen.sources.structures import records, row_of
from conformer_gen.sources.tables import csv_records
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import ConformerOrigin

LABELS = {"gap": "eV"}
GAP_NAMES = ("homolumogap", "gap", "homo")  # the last is used by a widely used sample
COORDINATES = "|("


def read_pcqm4mv2(paths: Sequence[Path], config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each row of the CSV.

    Raises:
        SourceError: there is not exactly one CSV and at most one SDF, a column is missing, or a gap is not a number.
    """
    tables = [path for path in paths if bare_suffix(path.name) == ".csv"]
    structures = [path for path in paths if path not in tables]
    if len(tables) != 1 or len(structures) > 1:
        raise SourceError(
            f"pcqm4mv2 needs one CSV and at most one SDF, got {', '.join(path.name for path in paths)}; name the files"
        )
    geometries = _Geometries(structures[0]) if structures else None
    yield from read_streams(tables[0], (".csv",), lambda stream: _read_table(stream, geometries))
    if geometries is not None and next(geometries.rows, None) is not None:
        problem = f"{structures[0]} continues after the last row of {tables[0]}: one of them is incomplete"
        yield SourceMolecule(id=f"{structures[0].name}:rest", problem=problem)


class _Geometries:
    """The records of the SDF, one after another, and whether they ended properly."""

    def __init__(self, path: Path) -> None:
        self.rows = read_streams(path, (".sdf",), _read_records)
        self._problem = ""

    def next(self) -> SourceMolecule | None:
        """Return the next record; None after a proper end. After an error, every further row reports its problem."""
        row = next(self.rows, None)
        if row is not None:
            self._problem = row.problem
            return row
        return SourceMolecule(id="", problem=self._problem) if self._problem else None


def _read_records(stream: TextStream) -> Iterator[SourceMolecule]:
    for record in records(stream.text):
        yield row_of(record, ConformerOrigin.DFT, "", ())


def _read_table(stream: TextStream, geometries: _Geometries | None) -> Iterator[SourceMolecule]:
    for names, fields, at, _, damage in csv_records(stream):
        if damage:  # rows and records can no longer be matched
            raise SourceError(damage)
        smiles_at = find_smiles(stream.name, names, None)
        gap_at = find_column(stream.name, names, None, GAP_NAMES)
        id_at = find_column(stream.name, names, None, ID_NAMES)
        if gap_at is None:
            raise SourceError(f"{stream.name} has none of the columns {', '.join(GAP_NAMES)}: is it PCQM4Mv2?")
        geometry = geometries.next() if geometries is not None else None
        name = fields[id_at] if id_at is not None and id_at < len(fields) else f"{stream.stem}:{at}"
        if len(fields) != len(names):
            problem = f"row {at} of {stream.name} has {len(fields)} fields, but the header has {len(names)}"
            yield SourceMolecule(id=name, problem=problem)
            continue
        smiles = fields[smiles_at].strip()
        gap = number(fields[gap_at], f"{stream.name}: row {at}, column {names[gap_at]!r}")
        inline = COORDINATES in smiles
        yield SourceMolecule(
            id=name,
            smiles=smiles,
            block=geometry.block if geometry else "",
            origin=ConformerOrigin.DFT if inline or geometry else None,
            labels=(gap,),
            problem=(geometry.problem if geometry else "") or smiles_problem(smiles),
        )


PCQM4MV2 = Source(
    name="pcqm4mv2",
    suffixes=(".csv", ".sdf"),
    read_files=read_pcqm4mv2,
    geometry="some",
    labels=LABELS,
    counted_as="csv",
)
