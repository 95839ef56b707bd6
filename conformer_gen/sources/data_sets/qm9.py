"""QM9: small molecules with a DFT geometry and fifteen properties (Ramakrishnan et al. 2014).

Three forms are read: the original XYZ files (the archive, a folder or single files), gdb9.sdf beside gdb9.sdf.csv, and
Parquet with the columns ``atoms`` and ``coords``. If uncharacterized.txt is among the inputs, the molecules that it
lists, which failed the data set's own consistency check, become rows with that problem. Units are those of the files.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conformer_gen.sources.columns import find_column, find_labels, find_smiles, number
from conformer_gen.sources.inputs.file_names import bare_suffix
from conformer_gen.sources.inputs.text_streams import TextStream, read_streams
from conformer_gen.sources.molecule import Geometry, SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from conformer_gen.sources.structures import records, row_of
from conformer_gen.sources.tables import csv_records, parquet_names, parquet_records
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import ConformerOrigin

LABELS = {
    "A": "GHz",
    "B": "GHz",
    "C": "GHz",
    "mu": "D",
    "alpha": "a0^3",
    "homo": "Ha",
    "lumo": "Ha",
    "gap": "Ha",
    "r2": "a0^2",
    "zpve": "Ha",
    "u0": "Ha",
    "u298": "Ha",
    "h298": "Ha",
    "g298": "Ha",
    "cv": "cal/(mol K)",
}
LISTED = re.compile(r"\s*(\d+)\s+\S")
NAME = re.compile(r"gdb[_ ](\d+)")
UNCHARACTERIZED = "uncharacterized"


def read_qm9(paths: Sequence[Path], config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each molecule, in any of the forms.

    Raises:
        SourceError: files are missing or are not QM9.
    """
    lists = [path for path in paths if path.suffix == ".txt"]
    dropped = {index for path in lists if UNCHARACTERIZED in path.name for index in _listed(path)}
    tables = [path for path in paths if bare_suffix(path.name) == ".csv"]
    structures = [path for path in paths if bare_suffix(path.name) == ".sdf"]
    if len(tables) != len(structures) or len(tables) > 1:
        raise SourceError("qm9 needs gdb9.sdf and gdb9.sdf.csv together: give both or neither")
    for path in paths:
        if path in lists or path in structures:
            continue
        if path in tables:
            rows = read_streams(path, (".csv",), lambda stream: _read_table(stream, structures[0]))
        elif bare_suffix(path.name) == ".parquet":
            rows = _read_parquet(path)
        else:
            rows = read_streams(path, (".xyz",), _read_xyz)
        yield from (_without_dropped(row, dropped) for row in rows)


def _listed(path: Path) -> Iterator[int]:
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := LISTED.match(line):
            yield int(match.group(1))


def _without_dropped(row: SourceMolecule, dropped: set[int]) -> SourceMolecule:
    match = NAME.fullmatch(row.id)
    if match is None or int(match.group(1)) not in dropped:
        return row
    return SourceMolecule(id=row.id, smiles=row.smiles, problem="listed in QM9's uncharacterized.txt")


def _read_xyz(stream: TextStream) -> Iterator[SourceMolecule]:
    """Read molecules of QM9's XYZ form: atoms, properties, positions, frequencies, SMILES, InChI."""
    lines = [line.rstrip("\n") for line in stream.text]
    while lines and not lines[-1].strip():
        lines.pop()
    start = 0
    while start < len(lines):
        name = f"{stream.stem}:{start + 1}"
        try:
            size = int(lines[start])
            record, start = lines[start : start + size + 5], start + size + 5
            name, row = _xyz_row(record, size)
        except (ValueError, IndexError) as error:
            yield SourceMolecule(id=name, problem=f"{stream.name} is not in QM9's XYZ form: {error}")
            return
        yield row


def _xyz_row(record: list[str], size: int) -> tuple[str, SourceMolecule]:
    tag, index, *values = record[1].split()
    atoms = [line.split()[:4] for line in record[2 : 2 + size]]
    # The second of the two SMILES describes the relaxed geometry.
    smiles = record[size + 3].split()[-1]
    if tag != "gdb" or len(values) != len(LABELS):
        raise ValueError(f"line 2 has {len(values)} properties, not {len(LABELS)}, or no 'gdb'")
    name = f"gdb_{index}"
    geometry = Geometry(
        symbols=tuple(atom[0] for atom in atoms),
        positions=np.array([[[_float(text) for text in atom[1:]] for atom in atoms]], np.float32),
        origins=(ConformerOrigin.DFT,),
    )
    return name, SourceMolecule(
        id=name, smiles=smiles, geometry=geometry, labels=tuple(_float(value) for value in values)
    )


def _float(text: str) -> float:
    """Read a number; QM9 writes some as 1.2*^-6."""
    return float(text.replace("*^", "e"))


def _read_table(stream: TextStream, structures: Path) -> Iterator[SourceMolecule]:
    blocks = read_streams(structures, (".sdf",), _read_records)
    for names, fields, at, _, damage in csv_records(stream):
        if damage:
            raise SourceError(damage)
        id_at = find_column(stream.name, names, "mol_id", ())
        places = find_labels(stream.name, names, LABELS)
        row = next(blocks, None)
        if row is None or row.problem:
            yield SourceMolecule(
                id=fields[id_at or 0], problem=row.problem if row else f"{structures} has no record for this row"
            )
            continue
        if len(fields) != len(names) or fields[id_at or 0] != row.id:
            raise SourceError(
                f"row {at} of {stream.name} ({fields[id_at or 0]!r}) and record {at} of {structures} ({row.id!r}) are "
                "different molecules: the files do not belong together"
            )
        where = f"{stream.name}: row {at}, column"
        labels = (number(fields[place], f"{where} {names[place]!r}") for place in places)
        yield SourceMolecule(id=row.id, block=row.block, origin=row.origin, labels=tuple(labels))


def _read_records(stream: TextStream) -> Iterator[SourceMolecule]:
    for at, record in enumerate(records(stream.text), start=1):
        yield row_of(record, ConformerOrigin.DFT, f"{stream.stem}:{at}", ())


def _read_parquet(path: Path) -> Iterator[SourceMolecule]:
    names = parquet_names(path)
    smiles = names[find_smiles(str(path), names, None)]
    for wanted in ("mol_id", "atoms", "coords", *LABELS):
        find_column(str(path), names, wanted, ())
    for at, values in parquet_records(path, [smiles, "mol_id", "atoms", "coords", *LABELS]):
        name = str(values["mol_id"])
        symbols, flat = values["atoms"] or [], values["coords"] or []
        if not symbols or len(flat) != 3 * len(symbols) or None in flat:
            problem = f"row {at} of {path} has {len(symbols)} atoms but {len(flat)} coordinates"
            yield SourceMolecule(id=name, problem=problem)
            continue
        yield _parquet_row(name, values, smiles, f"{path}: row {at}, column")


def _parquet_row(name: str, values: dict[str, Any], smiles: str, where: str) -> SourceMolecule:
    geometry = Geometry(
        symbols=tuple(values["atoms"]),
        positions=np.array(values["coords"], np.float32).reshape(1, -1, 3),
        origins=(ConformerOrigin.DFT,),
    )
    labels = tuple(number(values[label], f"{where} {label!r}") for label in LABELS)
    return SourceMolecule(id=name, smiles=values[smiles] or "", geometry=geometry, labels=labels)


QM9 = Source(
    name="qm9",
    suffixes=(".xyz", ".sdf", ".csv", ".parquet", ".txt"),
    read_files=read_qm9,
    geometry="all",
    labels=LABELS,
)
