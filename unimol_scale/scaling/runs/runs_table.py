"""Writes finished runs as one Parquet table and reads it back, so that a law can be refitted from it alone. No torch.

A row is a run. The columns N, D, C, loss and so on are those of any table of losses; the others hold the curve, the
settings, and what decides whether runs are comparable. No column reveals the paths of a run or its data.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.common.files import commit_file
from unimol_scale.common.trees import Flat
from unimol_scale.errors import RunError, version_problem
from unimol_scale.scaling.runs.run_records import GROUPS, RunRecord

VERSION = 1
_MARK = b"unimol-scale runs table"  # key in the file's metadata; its value is the version
TERM = "loss/"
# Column → attribute of a RunRecord whose values are stored as they are.
_PLAIN = {
    "name": "name", "size": "size", "N": "parameters", "D": "molecules", "C": "flops", "S": "steps", "U": "unique",
    "lr": "learning_rate", "batch": "global_batch_size", "loss": "loss", "weight": "weight", "seed": "seed",
    "unit": "unit", "decays": "decays", "own_flops": "own_flops", "is_trunk": "is_trunk", "skipped": "skipped",
    "damaged_lines": "damaged_lines",
}  # fmt: skip


def write_runs_table(records: Sequence[RunRecord], path: Path) -> None:
    """Write runs, their curves and settings as a Parquet table.

    Args:
        records: as ``read_runs`` returns them.
        path: file to write.
    """
    import pyarrow as pa
    from pyarrow import parquet

    terms = sorted({term for record in records for term in record.terms})
    rows = [_row(record, terms) for record in records]
    table = pa.Table.from_pylist(rows, schema=_schema(terms))

    def write(temporary: Path) -> None:
        parquet.write_table(table, temporary, compression="zstd")

    path.parent.mkdir(parents=True, exist_ok=True)
    commit_file(path, write)


def is_runs_table(path: Path) -> bool:
    """Return whether a Parquet file was written by ``write_runs_table``."""
    return _version(path) is not None


def read_runs_table(path: Path) -> list[RunRecord]:
    """Return the runs of a table that ``write_runs_table`` wrote.

    Raises:
        RunError: the table is damaged, or of a newer version.
    """
    import pyarrow
    from pyarrow import parquet

    if problem := version_problem(_version(path), VERSION):
        raise RunError(f"{path}: {problem}")
    try:
        rows = parquet.read_table(path).to_pylist()
        return [_record(path, row) for row in rows]
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is a damaged table of runs: {error}; write it again with `runs table`") from error


def _version(path: Path) -> int | None:
    import pyarrow
    from pyarrow import parquet

    try:
        found = (parquet.read_schema(path).metadata or {}).get(_MARK)
    except (pyarrow.ArrowException, OSError):
        return None
    return None if found is None else int(found)


def _schema(terms: Sequence[str]) -> Any:  # noqa: ANN401 - of pyarrow, which is imported late
    import pyarrow as pa

    kinds = {
        "name": pa.string(), "size": pa.string(), "S": pa.int64(), "batch": pa.int64(), "seed": pa.int64(),
        "unit": pa.string(), "decays": pa.bool_(), "is_trunk": pa.bool_(), "skipped": pa.int64(),
        "damaged_lines": pa.int64(),
    }  # fmt: skip
    series = pa.list_(pa.float64())
    fields = [(column, kinds.get(column, pa.float64())) for column in _PLAIN]
    fields += [(f"{TERM}{term}", pa.float64()) for term in terms]
    fields += [(f"N/{group}", pa.float64()) for group in GROUPS]
    fields += [("curve/D", series), ("curve/loss", series)]
    fields += [(f"curve/{TERM}{term}", series) for term in terms]
    fields += [("trunk", pa.string()), ("remarks", pa.list_(pa.string())), ("comparable", pa.string())]
    fields += [("settings", pa.string())]
    return pa.schema(fields, metadata={_MARK: str(VERSION).encode()})


def _row(record: RunRecord, terms: Sequence[str]) -> dict[str, Any]:
    row = {column: getattr(record, attribute) for column, attribute in _PLAIN.items()}
    row |= {f"{TERM}{term}": record.terms.get(term) for term in terms}
    row |= {f"N/{group}": record.groups.get(group) for group in GROUPS}
    row |= {"curve/D": [point[0] for point in record.curve], "curve/loss": [point[1] for point in record.curve]}
    row |= {f"curve/{TERM}{term}": record.curve_terms.get(term) for term in terms}
    return row | {
        "trunk": None if record.trunk is None else Path(record.trunk).name,
        "remarks": [remark.replace(record.source, record.name) for remark in record.remarks],
        "comparable": json.dumps(dict(record.comparable), sort_keys=True),
        "settings": json.dumps(_without_places(record.settings), sort_keys=True, default=str),
    }


def _without_places(settings: Flat) -> Flat:
    """Return settings in which paths are replaced by the names of files and folders."""

    def named(value: Any) -> Any:  # noqa: ANN401
        return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value

    return {key: named(value) for key, value in settings.items()}


def _record(path: Path, row: Mapping[str, Any]) -> RunRecord:
    plain = {attribute: row[column] for column, attribute in _PLAIN.items()}
    groups = {group: row[f"N/{group}"] for group in GROUPS}
    terms = [column.removeprefix(TERM) for column in row if column.startswith(TERM)]
    return RunRecord(
        **plain,
        source=f"{path}: {row['name']}",
        groups=groups if all(count is not None for count in groups.values()) else {},
        terms={term: row[f"{TERM}{term}"] for term in terms if row[f"{TERM}{term}"] is not None},
        curve=tuple(zip(row["curve/D"], row["curve/loss"], strict=True)),
        curve_terms={
            term: tuple(row[f"curve/{TERM}{term}"]) for term in terms if row[f"curve/{TERM}{term}"] is not None
        },
        trunk=row["trunk"],
        remarks=tuple(row["remarks"]),
        comparable=json.loads(row["comparable"]),
        settings=json.loads(row["settings"]),
    )
