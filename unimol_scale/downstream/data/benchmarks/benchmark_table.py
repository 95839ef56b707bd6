"""Reads the local files of a TDC or Polaris benchmark as one table with the official split as a column.

Neither library is needed: their files are CSV, JSON and Parquet.
"""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from unimol_scale.common.files import commit_file
from unimol_scale.common.units import counted
from unimol_scale.downstream.data.benchmarks.polaris_benchmark import POLARIS_FILE, read_polaris
from unimol_scale.downstream.data.benchmarks.tdc_benchmark import TDC_FILES, read_tdc
from unimol_scale.errors import SourceError

SPLIT = "split"
VALID_SHARE = 0.125  # fraction of the rows outside the test set, as in TDC's own validation split


@dataclass(frozen=True, kw_only=True)
class BenchmarkTable:
    """A benchmark.

    Attributes:
        kind: "TDC" or "Polaris".
        columns: table with molecules, labels, and ``split``: train, test or unused.
        smiles: name of the column of molecules.
        targets: names of the label columns.
    """

    kind: str
    columns: pa.Table
    smiles: str
    targets: tuple[str, ...]

    def describe(self, path: Path) -> str:
        """Return a description of the table at ``path``, and the command that fine-tunes a model on it."""
        parts = self.columns[SPLIT].to_pylist()
        train, test = parts.count("train"), parts.count("test")
        targets = " ".join(f'"{name}"' if " " in name else name for name in self.targets)
        return (
            f"{path}: {self.kind} benchmark, {train:,} training rows and {test:,} test rows, "
            f"{counted(len(self.targets), 'target')}\n"
            f"next: unimol-scale finetune --data {path} --smiles-column {self.smiles} --target {targets} "
            f"--split column --split-column {SPLIT} valid_rows={max(1, round(VALID_SHARE * train))}"
        )


def read_benchmark(path: Path) -> BenchmarkTable:
    """Read a benchmark.

    Args:
        path: for TDC, a folder with train_val.csv and test.csv, such as admet_group/caco2_wang; for Polaris,
            benchmark.json or its folder, as written by ``benchmark.to_json``.

    Raises:
        SourceError: the path is neither, or a file is missing or damaged.
    """
    if all((path / name).is_file() for name in TDC_FILES):
        columns, targets = read_tdc(path)
        return BenchmarkTable(kind="TDC", columns=columns, smiles="smiles", targets=targets)
    file = path / POLARIS_FILE if path.is_dir() else path
    if file.is_file() and file.suffix == ".json":
        columns, smiles, targets = read_polaris(file)
        return BenchmarkTable(kind="Polaris", columns=columns, smiles=smiles, targets=targets)
    raise SourceError(
        f"{path} is not a benchmark: a TDC benchmark is a folder with {' and '.join(TDC_FILES)}, a Polaris benchmark "
        f"has {POLARIS_FILE}"
    )


def write_benchmark(path: Path, found: BenchmarkTable) -> None:
    """Write the table as CSV.

    Raises:
        OSError: the file cannot be written.
    """
    commit_file(path, lambda temporary: pyarrow.csv.write_csv(found.columns, temporary))
