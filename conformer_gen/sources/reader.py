"""Where molecules come from: files in, one ``SourceMolecule`` a row out. Imports RDKit for the sample's path only.

A row that can not be a molecule is still yielded, so that curation counts it as a failure; only blank lines, comment
lines and headers are not rows.
"""

import csv
import dataclasses
import gzip
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TextIO

from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.errors import ConfigError, SourceError, nearest
from unimol_scale.store.schema import ConformerOrigin

SourceName = Literal["sample", "zinc20", "smiles", "csv", "parquet", "sdf"]
SUFFIXES: dict[str, tuple[str, ...]] = {
    "zinc20": (".smi", ".txt", ".csv"),
    "smiles": (".smi", ".smiles", ".txt", ".ism", ".can"),
    "csv": (".csv", ".tsv"),
    "parquet": (".parquet",),
    "sdf": (".sdf", ".sd"),
}
SMILES_NAMES = ("smiles", "canonical_smiles", "isomeric_smiles", "smi", "structure", "mol")
ID_NAMES = ("id", "zinc_id", "molecule_id", "mol_id", "compound_id", "chembl_id", "idx", "name", "title")
ZINC22_NAME = re.compile(r"H\d\d[PM]\d{3}")
PARQUET_ROWS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which molecules to read.

    Attributes:
        name: kind of source; "sample" is the NCI set inside the RDKit wheel and needs no input.
        input: files or directories; directories are searched recursively for the source's suffixes, also gzipped.
        limit: read no more rows than this.
        smiles_column: name of the SMILES column of csv and parquet; None finds it by the usual names.
        id_column: name of the identifier column; None finds it, and rows are named after file and row without one.
    """

    name: SourceName
    input: tuple[Path, ...] = ()
    limit: int | None = None
    smiles_column: str | None = None
    id_column: str | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}")
        if self.name == "sample" and self.input:
            raise ConfigError("the source 'sample' ships with RDKit and takes no --input")
        if self.name != "sample" and not self.input:
            raise ConfigError(f"the source {self.name!r} needs --input FILE_OR_DIR")


def input_files(config: SourceConfig) -> list[Path]:
    """Return the files to read, in the order in which they are read.

    Raises:
        SourceError: a path does not exist, or a directory holds no file of the source's kind.
    """
    if config.name == "sample":
        return [_sample_file()]
    files: list[Path] = []
    for path in config.input:
        if not path.exists():
            raise SourceError(f"--input {path} does not exist")
        if path.is_file():
            files.append(path)
            continue
        suffixes = SUFFIXES[config.name]
        found = sorted(file for file in path.rglob("*") if file.is_file() and _bare_suffix(file) in suffixes)
        if not found:
            raise SourceError(f"--input {path} holds no {', '.join(suffixes)} file (plain or .gz)")
        files.extend(found)
    for file in files:
        if config.name == "zinc20" and ZINC22_NAME.match(file.name):
            raise SourceError(f"{file} is named as a ZINC22 tranche; that is another layout, use --source smiles")
    return files


def has_geometry(config: SourceConfig) -> bool:
    """Return whether the source's own coordinates are kept."""
    return config.name == "sdf"


def label_units(config: SourceConfig) -> dict[str, str]:
    """Return the names of the labels that rows of the source carry, in their order, and their units."""
    return {}


def read_source(config: SourceConfig) -> Iterator[SourceMolecule]:
    """Yield every row of every input file, up to the limit.

    Raises:
        SourceError: a file can not be read as what it claims to be.
    """
    readers: dict[str, Callable[[Path], Iterator[SourceMolecule]]] = {
        "sample": _read_lines,
        "zinc20": _read_lines,
        "smiles": _read_lines,
        "csv": lambda path: _read_csv(path, config),
        "parquet": lambda path: _read_parquet(path, config),
        "sdf": _read_sdf,
    }
    reader = readers[config.name]

    def rows() -> Iterator[SourceMolecule]:
        for path in input_files(config):
            try:
                yield from reader(path)
            except (OSError, EOFError, csv.Error) as error:
                raise SourceError(f"{path} can not be read to its end: {error}") from error

    return itertools.islice(rows(), config.limit)


def _sample_file() -> Path:
    from rdkit import RDConfig

    path = Path(RDConfig.RDDataDir) / "NCI" / "first_5K.smi"
    if not path.is_file():
        raise SourceError(f"this RDKit has no sample data ({path} is missing); install RDKit from its PyPI wheel")
    return path


def _bare_suffix(path: Path) -> str:
    return (path.with_suffix("") if path.suffix == ".gz" else path).suffix.lower()


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _open_text(path: Path) -> TextIO:
    """Open plain or gzipped text; bytes that are not UTF-8 become marks that no parser takes for a SMILES."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="replace", newline=None)
    return path.open(encoding="utf-8-sig", errors="replace", newline=None)


def _read_lines(path: Path) -> Iterator[SourceMolecule]:
    """Read SMILES files: header or none; tabs, spaces or commas; missing identifiers."""
    smiles_at, id_at = 0, 1
    first = True
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            fields = _fields(text)
            if first:
                first = False
                if text.startswith("<"):
                    raise SourceError(f"{path} is a web page (line {number} starts with '<'), not a list of SMILES")
                names = [field.lower() for field in fields]
                if "smiles" in names:
                    smiles_at = names.index("smiles")
                    id_at = next((names.index(name) for name in ID_NAMES if name in names), len(names))
                    continue
            name = fields[id_at] if id_at < len(fields) else ""
            smiles = fields[smiles_at] if smiles_at < len(fields) else ""
            yield SourceMolecule(id=name or f"{_stem(path)}:{number}", smiles=smiles)


def _fields(text: str) -> list[str]:
    """Split a line at tabs, else at commas, else at white space; no SMILES contains any of them."""
    if "\t" in text:
        return [field.strip() for field in text.split("\t")]
    return [field.strip() for field in text.split(",")] if "," in text else text.split()


def _column(path: Path, names: Sequence[str], wanted: str | None, usual: Sequence[str]) -> str | None:
    """Return the column to use: the one asked for, else the first usual name present, else None."""
    if wanted is not None:
        if wanted not in names:
            raise SourceError(f"{path} has no column {wanted!r}; {nearest(wanted, names)}")
        return wanted
    lower = {name.lower().strip(): name for name in reversed(names)}
    return next((lower[name] for name in usual if name in lower), None)


def _columns(path: Path, names: Sequence[str], config: SourceConfig) -> tuple[str, str | None]:
    smiles = _column(path, names, config.smiles_column, SMILES_NAMES)
    if smiles is None:
        raise SourceError(
            f"{path}: none of the columns {', '.join(names)} is named as SMILES; give source.smiles_column="
        )
    return smiles, _column(path, names, config.id_column, ID_NAMES)


def _read_csv(path: Path, config: SourceConfig) -> Iterator[SourceMolecule]:
    with _open_text(path) as file:
        header = file.readline()
        delimiter = max(",\t;", key=header.count)
        names = next(csv.reader([header], delimiter=delimiter), [])
        smiles, name = _columns(path, names, config)
        for number, row in enumerate(csv.DictReader(file, names, delimiter=delimiter), start=1):
            identifier = row.get(name) if name else None
            yield SourceMolecule(id=identifier or f"{_stem(path)}:{number}", smiles=(row.get(smiles) or "").strip())


def _read_parquet(path: Path, config: SourceConfig) -> Iterator[SourceMolecule]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            smiles, name = _columns(path, file.schema_arrow.names, config)
            number = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=[column for column in (smiles, name) if column]):
                values = batch[smiles].to_pylist()
                names = batch[name].to_pylist() if name else [None] * len(values)
                for value, identifier in zip(values, names, strict=True):
                    number += 1
                    identifier = f"{_stem(path)}:{number}" if identifier is None else str(identifier)
                    yield SourceMolecule(id=identifier, smiles="" if value is None else str(value).strip())
    except pa.ArrowInvalid as error:
        raise SourceError(f"{path} is not a parquet file: {error}") from error


def _read_sdf(path: Path) -> Iterator[SourceMolecule]:
    """Split an SDF at its ``$$$$`` lines; a last record without one is read as far as it goes."""
    lines: list[str] = []
    number = 0
    with _open_text(path) as file:
        for line in itertools.chain(file, ["$$$$\n"]):
            if not line.startswith("$$$$"):
                lines.append(line)
                continue
            if any(part.strip() for part in lines):
                number += 1
                yield SourceMolecule(
                    id=lines[0].strip() or f"{_stem(path)}:{number}", block="".join(lines), origin=ConformerOrigin.FILE
                )
            lines = []
