"""SMILES files: one molecule per line, with or without a header; tabs, commas or spaces; with or without names."""

import re
from collections.abc import Iterator
from pathlib import Path

from conformer_gen.sources.columns import ID_NAMES, SMILES_NAMES, find_column, find_smiles
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.common.text.delimited import EXCEL_SEPARATOR, place_of
from unimol_scale.errors import SourceError

MARK = "\ufffd"  # replaces bytes that are not UTF-8 when text is decoded
EXTENSION = re.compile(r"\s+(\|[^|]*\|)")  # ChemAxon's extension, between SMILES and name
DEPICTION = re.compile(r"\|\([^)]*\)\|")  # an extension that contains only coordinates


def read_lines(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each line except blank lines, comments (#) and the header, which are not counted.

    Raises:
        SourceError: the requested columns do not exist.
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
                raise SourceError(
                    f"{stream.name} is a table for Excel (sep=…): give it a name that ends in .csv and read it as csv"
                )
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
            problem = f"{stream.name} ends in the middle of line {number}, with {len(fields)} of {width} columns"
        yield SourceMolecule(id=name or f"{stream.stem}:{row}", smiles=smiles, problem=problem)


def smiles_problem(smiles: str) -> str:
    """Return why a text cannot be any SMILES, or ""; RDKit would read only up to a NUL."""
    if smiles.isascii() and smiles.isprintable():
        return ""
    if MARK in smiles:
        return "the SMILES contains bytes that are not UTF-8; save the file as UTF-8"
    return "the SMILES contains characters that are not printable ASCII"


def split(line: str) -> list[str]:
    """Split a line at tabs, or else at commas, or else at white space; a SMILES can contain none of them.

    ChemAxon's extension, which may contain commas, stays with its SMILES unless it is only a depiction.
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
    """Return whether a line is a header: one of its fields is a usual or requested column name, which no SMILES is."""
    names = {field.strip().lower() for field in fields}
    return bool(names & set(SMILES_NAMES)) or config.smiles_column in fields


def _named(where: str, fields: list[str], config: SourceSettings) -> tuple[int, int]:
    """Return the indices of SMILES and name under this header; for no name, one past the end."""
    names = [field.strip() for field in fields]
    smiles_at = _place(config.smiles_column)
    id_at = _place(config.id_column)
    if smiles_at is None:
        smiles_at = find_smiles(where, names, config.smiles_column)
    if id_at is None:
        id_at = find_column(where, names, config.id_column, ID_NAMES)
    return smiles_at, len(names) if id_at is None else id_at


def _numbered(where: str, fields: list[str], config: SourceSettings) -> tuple[int, int]:
    """Return the indices in lines without a header: as requested, or else SMILES first and the name beside it."""
    for wanted in (config.smiles_column, config.id_column):
        if wanted is not None and _place(wanted) is None:
            raise SourceError(f"{where} has no header with a column {wanted!r}; give the column's number, from 1")
    smiles_at = _place(config.smiles_column) or 0
    id_at = _place(config.id_column)
    if id_at is None:
        id_at = 0 if smiles_at else 1
    return smiles_at, id_at


def _place(wanted: str | None) -> int | None:
    """Return the index, from 0, of a column given by its number, from 1."""
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
