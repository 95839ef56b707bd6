"""Reads SDF files as a table: one row per record, with its structure as SMILES and its data fields as text.

Only the structure is used, with the stereo given by its coordinates or wedges. Conformers are generated as for SMILES,
so that a molecule gets the same prediction from every file format. A store built from the file keeps its coordinates.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
from rdkit import Chem, rdBase

from conformer_gen.sources.inputs.file_names import bare_suffix
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.inputs.text_streams import TextStream, read_streams
from conformer_gen.sources.structures import BLOCK_END, records, row_of
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import ConformerOrigin

SUFFIXES = (".sdf", ".sd", ".mol")
STRUCTURE = "structure of the record"  # name of the column of SMILES; unlikely to be the name of a data field
TITLE = "title"


def read_sdf_table(path: Path) -> tuple[pa.Table, dict[int, str]]:
    """Return the records as a table, and row → problem for records without a readable structure.

    The columns are ``STRUCTURE``, the titles if there are any, and the data fields in order of first appearance. A
    record that lacks a field has an empty text in its column.

    Raises:
        SourceError: the file is not text, or holds no records.
    """
    rows: list[Mapping[str, str]] = []
    structures: list[str] = []
    problems: dict[int, str] = {}
    for molecule, fields in _records(path):
        text, problem = structure_smiles(molecule)
        if problem:
            problems[len(rows)] = problem
        structures.append(text)
        rows.append(fields)
    if not rows:
        raise SourceError(f"{path} has no rows")
    names = dict.fromkeys(name for fields in rows for name in fields)
    if not any(fields.get(TITLE) for fields in rows):
        names.pop(TITLE, None)
    columns = {name: pa.array([fields.get(name, "") for fields in rows], pa.string()) for name in names}
    return pa.table({STRUCTURE: pa.array(structures, pa.string()), **columns}), problems


def is_sdf(path: Path) -> bool:
    """Return whether the name of a file is that of an SDF, plain or compressed."""
    return bare_suffix(path.name) in SUFFIXES


def describe_geometry(path: Path, *, sees_3d: bool) -> str:
    """Return a line that says that the coordinates of an SDF file are not used; "" if the model needs none."""
    if not sees_3d or not is_sdf(path):
        return ""
    return (
        f"conformers were generated for the structures in {path.name}, whose own coordinates are not used; to use "
        "them, build a store from the file: unimol-scale build --source sdf"
    )


def structure_smiles(molecule: SourceMolecule) -> tuple[str, str]:
    """Return the SMILES of a row that has a mol block, and why there is no SMILES; one of the two is empty.

    The SMILES of a row without a block is returned unchanged.
    """
    if molecule.problem or not molecule.block:
        return molecule.smiles, molecule.problem
    with rdBase.BlockLogs():
        try:
            parsed = Chem.MolFromMolBlock(molecule.block)
            if parsed is not None:
                return Chem.MolToSmiles(parsed), ""
            raw = Chem.MolFromMolBlock(molecule.block, sanitize=False)
            found = [] if raw is None else [problem.Message() for problem in Chem.DetectChemistryProblems(raw)]
        except (RuntimeError, ValueError) as error:
            found = [str(error).strip().split("\n")[0]]
    return "", "; ".join(found) or "RDKit cannot read this SDF record"


def data_fields(record: str) -> dict[str, str]:
    """Return the data fields of a record: name → value, which may have several lines."""
    fields: dict[str, str] = {}
    name: str | None = None
    for line in record.partition(BLOCK_END)[2].split("\n"):
        if line.startswith(">") and "<" in line:
            name = line.partition("<")[2].rpartition(">")[0]
            fields.setdefault(name, "")
        elif not line.strip():
            name = None
        elif name is not None:
            fields[name] += ("\n" if fields[name] else "") + line.rstrip("\r")
    return fields


def _records(path: Path) -> Iterator[tuple[SourceMolecule, Mapping[str, str]]]:
    newest: dict[str, str] = {}

    def read(stream: TextStream) -> Iterator[SourceMolecule]:
        for record in records(stream.text):
            newest.clear()
            newest.update({TITLE: record.split("\n", 1)[0].strip(), **data_fields(record)})
            yield row_of(record, ConformerOrigin.FILE, "", ())

    for molecule in read_streams(path, SUFFIXES, read):
        yield molecule, dict(newest)
        newest.clear()  # the row that reports a truncated file has no fields
