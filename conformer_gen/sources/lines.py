"""SMILES files: one molecule a line; header or none; tabs, commas or spaces; names or none."""

import re
from collections.abc import Iterator
from pathlib import Path

from conformer_gen.sources.columns import ID_NAMES, SMILES_NAMES, find_column, find_smiles
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.common.text.delimited import EXCEL_SEPARATOR, place_of
from unimol_scale.errors import SourceError

MARK = "\ufffd"  # what bytes that are not UTF-8 are decoded to
EXTENSION = re.compile(r"\s+(\|[^|]*\|)")  # ChemAxon's, between SMILES and name
DEPICTION = re.compile(r"\|\([^)]*\)\|")  # an extension of nothing but coordinates


def read_lines(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each line that is neither blank, nor a comment (#), nor the header; others are not counted.

    Raises:
        SourceError: the columns asked for are not there.
    """
    smiles_at, id_at, width, row = 0, 1, 0, 0
    first = True
    for number, line in enumerate(stream.text, start=1):
        fields = split(line)
        if not fields or fields[0].startswith("#"):
            continue
        if first:
            first = False
            if EXCEL_SEPARATOR.fullmatch(line.strip()):
                raise SourceError(f"{stream.name} is a table for Excel (sep=…): read it as csv, with a name in .csv")
            is_header = _is_header(fields, config)
            smiles_at, id_at = (_named if is_header else _numbered)(stream.name, fields, config)
            if is_header:
                width = len(fields)
                continue
        row += 1
        smiles = fields[smiles_at].strip() if smiles_at < len(fields) else ""
        name = fields[id_at].strip() if id_at < len(fields) else ""
        problem = smiles_problem(smiles)
        problem = problem and f"{stream.name}: {place_of(row, number)}: {problem}"
        if len(fields) < width and line[-1] != "\n":
            problem = f"{stream.name} ends in the middle of line {number}: {len(fields)} of {width} columns"
        yield SourceMolecule(id=name or f"{stream.stem}:{row}", smiles=smiles, problem=problem)


def smiles_problem(smiles: str) -> str:
    """Return what keeps a text from being a SMILES of any kind; RDKit would read up to a NUL and stop there."""
    if smiles.isascii() and smiles.isprintable():
        return ""
    if MARK in smiles:
        return "the SMILES holds bytes that are not UTF-8; save the file as UTF-8"
    return "the SMILES holds characters that are not printable ASCII"


def split(line: str) -> list[str]:
    """Split a line at tabs, else at commas, else at white space; none of them can stand in a SMILES.

    ChemAxon's extension, which can hold commas, stays with the SMILES before it, unless it is only a depiction.
    """
    extension = EXTENSION.search(line) if "|" in line else None
    if extension is None:
        return _split(line)
    fields = _split(line[: extension.start()] + line[extension.end() :])
    at = len(_split(line[: extension.start()])) - 1
    if 0 <= at < len(fields) and not DEPICTION.fullmatch(extension[1]):
        fields[at] = f"{fields[at].rstrip()} {extension[1]}"
    return fields


def _split(line: str) -> list[str]:
    if "\t" in line:
        return [] if line.isspace() else line.rstrip("\n").split("\t")
    fields = line.split()
    if fields and "," in fields[0]:
        return line.strip().split(",")
    return fields


def _is_header(fields: list[str], config: SourceSettings) -> bool:
    """A line is a header if a usual name, or the one asked for, is among its fields; none of these is a SMILES."""
    names = {field.strip().lower() for field in fields}
    return bool(names & set(SMILES_NAMES)) or config.smiles_column in fields


def _named(where: str, fields: list[str], config: SourceSettings) -> tuple[int, int]:
    """Return the places of SMILES and name in lines with this header; one past the end for no name."""
    names = [field.strip() for field in fields]
    smiles_at = _place(config.smiles_column)
    id_at = _place(config.id_column)
    if smiles_at is None:
        smiles_at = find_smiles(where, names, config.smiles_column)
    if id_at is None:
        id_at = find_column(where, names, config.id_column, ID_NAMES)
    return smiles_at, len(names) if id_at is None else id_at


def _numbered(where: str, fields: list[str], config: SourceSettings) -> tuple[int, int]:
    """Return the places in lines without a header: as asked for, else SMILES first and the name beside it."""
    for wanted in (config.smiles_column, config.id_column):
        if wanted is not None and _place(wanted) is None:
            raise SourceError(f"{where} has no header with a column {wanted!r}; give the column's number, from 1")
    smiles_at = _place(config.smiles_column) or 0
    id_at = _place(config.id_column)
    if id_at is None:
        id_at = 0 if smiles_at else 1
    return smiles_at, id_at


def _place(wanted: str | None) -> int | None:
    """Return the place, from 0, of a column given by its number, from 1."""
    return int(wanted) - 1 if wanted is not None and wanted.isdecimal() and int(wanted) > 0 else None


def _sample_file() -> Path:
    from rdkit import RDConfig

    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not path.is_file():
        raise SourceError(f"this RDKit has no sample data ({path} is missing); install RDKit from its PyPI wheel")
    return path


SAMPLE = Source(name="sample", read_stream=read_lines, bundled=_sample_file)
SMILES = Source(
    name="smiles",
    suffixes=(".smi", ".smiles", ".txt", ".ism", ".can"),
    read_stream=read_lines,
    takes_columns=True,
)
