"""The folds as CSV files for other tools, and what these predict of the test rows.

Shapes: M rows, L targets, J folds of all repeats.
"""

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.downstream.folds.fold_data import FoldData
from benchmarks.downstream.sets import file_name
from unimol_scale.common.files import commit_file
from unimol_scale.downstream.comparison.fold_results import FoldResult
from unimol_scale.downstream.data.splitting.parts import PARTS, Fold
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float64

ROW, SMILES, REPEAT, FOLD = "row", "smiles", "repeat", "fold"


def table_name(name: str, fraction: float) -> str:
    """Return the name of the file of a set and a share of the labels, of the folds and of the predictions alike."""
    return f"{file_name(name)}-{fraction:g}.csv"


def write_folds(folder: Path, data: FoldData) -> Path:
    """Write the rows with labels and folds: row, smiles, the targets, and "repeat R fold F" for every fold.

    A fold's column has train, valid or test, and is empty for rows that the fold does not use, such as training rows
    beyond the share of labels. A missing label is empty.

    Returns:
        The file.
    """
    rows = data.rows
    part_MJ = np.full((len(rows.labels_ML), len(data.folds)), "", dtype=object)
    for at, (_, split) in enumerate(data.folds):
        for part in PARTS:
            part_MJ[getattr(split, part), at] = part
    values_ML = rows.labels_ML.tolist()
    places = [f"{REPEAT} {fold.repeat} {FOLD} {fold.fold}" for fold, _ in data.folds]
    path = folder / table_name(data.set, data.fraction)

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            lines = csv.writer(file, lineterminator="\n")
            lines.writerow([ROW, SMILES, *rows.targets, *places])
            for row in np.flatnonzero(rows.usable_M).tolist():
                labels = ["" if math.isnan(label) else repr(label).removesuffix(".0") for label in values_ML[row]]
                lines.writerow([row + 1, rows.molecules.smiles[row], *labels, *part_MJ[row]])

    folder.mkdir(parents=True, exist_ok=True)
    commit_file(path, write)
    return path


def read_external(name: str, folder: Path, data: FoldData) -> FoldResult | None:
    """Read the predictions of another tool: CSV with the columns row, repeat, fold and the targets.

    Args:
        name: of the tool.
        folder: of its files, which have the names that ``write_folds`` gives.
        data: rows and folds.

    Returns:
        None if it has no file of this set and share of the labels.

    Raises:
        ConfigError: a column is missing, a value is no number, a row is not tested in the fold, or a test row with a
            label has no prediction.
    """
    path = folder / table_name(data.set, data.fraction)
    if not path.is_file():
        return None
    place = {fold: at for at, (fold, _) in enumerate(data.folds)}
    predictions = [np.full(data.rows.labels_ML.shape, np.nan) for _ in data.folds]
    tested = [set(split.test.tolist()) for _, split in data.folds]
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file)
        if lacking := {ROW, REPEAT, FOLD, *data.rows.targets}.difference(lines.fieldnames or ()):
            raise ConfigError(f"{path} lacks the columns {', '.join(sorted(lacking))}")
        for number, line in enumerate(lines, start=2):
            fold, row, values = _parsed(path, number, line, data.rows.targets)
            if fold not in place or row not in tested[place[fold]]:
                raise ConfigError(
                    f"{path}, line {number}: row {row + 1} is not a test row of {fold}; "
                    "were the predictions made for other folds?"
                )
            predictions[place[fold]][row] = values
    return data.result(name, folder, predictions, start=name)


def _parsed(path: Path, number: int, line: dict[str, str], targets: Sequence[str]) -> tuple[Fold, int, Float64]:
    """Return fold, row from 0, and the predictions [L] of a line."""
    try:
        fold = Fold(repeat=int(line[REPEAT]), fold=int(line[FOLD]))
        return fold, int(line[ROW]) - 1, np.array([float(line[target]) for target in targets])
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}, line {number}: {error}") from error
