"""The table of predictions of a file: its columns, and the new ones beside them.

Shapes: M rows, R of them with a molecule, L targets, S seeds.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from unimol_scale.downstream.finetuning.labelled_rows import CONFORMER_SPREAD, PREDICTED, SPREAD
from unimol_scale.downstream.finetuning.predictions.seed_predictions import SeedPredictions


def predicted_table(file_columns: pa.Table, found: SeedPredictions) -> tuple[pa.Table, str]:
    """Return the columns of a file with the new ones beside them, and a line on new ones that were renamed; "" if none.

    Args:
        file_columns: of M rows.
        found: predictions of those of them that have a molecule.
    """
    row_R, value_SRL, conformer_std_RL = found.row_R, found.value_SRL, found.conformer_std_RL
    M = len(found.molecules.smiles)
    used, changes = np.full(M, None), np.full(M, None)
    used[row_R] = [found.molecules.smiles[row] for row in row_R.tolist()]
    changes[row_R] = [found.molecules.changes[row] for row in row_R.tolist()]
    taken = set(file_columns.column_names)
    renamed = []

    def named(name: str, *, is_target: bool = False) -> str:
        free = _free(name, taken, is_target=is_target)
        taken.add(free)
        if free != name:
            renamed.append(f"{free!r} for {name!r}")
        return free

    row = named("row")
    ours = {named("smiles_used"): pa.array(used, pa.string()), named("changes"): pa.array(changes, pa.string())}
    for at, target in enumerate(found.config.targets):
        name = named(target, is_target=True)
        ours[name] = _spread_out(value_SRL[:, :, at].mean(0), row_R, M)
        if len(value_SRL) > 1:
            ours[named(f"{name}{SPREAD}")] = _spread_out(value_SRL[:, :, at].std(0, ddof=1), row_R, M)
        if conformer_std_RL is not None:
            ours[named(f"{name}{CONFORMER_SPREAD}")] = _spread_out(conformer_std_RL[:, at], row_R, M)
        for ending, values_R in found.belief.target_columns(at).items():
            ours[named(f"{name} {ending}")] = _spread_out(values_R, row_R, M)
    for title, values_R in found.belief.domain_columns(found.config.targets).items():
        ours[named(title)] = _spread_out(values_R, row_R, M)
    table = pa.Table.from_arrays(
        [pa.array(np.arange(1, M + 1)), *file_columns.columns, *ours.values()],
        names=[row, *file_columns.column_names, *ours],
    )
    line = f"The file has columns of these names already, so the new ones are called otherwise: {', '.join(renamed)}."
    return table, line if renamed else ""


def _free(name: str, taken: set[str], *, is_target: bool) -> str:
    """Return the name, or a similar one if a column has it already."""
    if name not in taken:
        return name
    if is_target and (predicted := f"{PREDICTED}{name}") not in taken:
        return predicted
    number = 2
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def write_csv(table: pa.Table, path: Path) -> None:
    """Write a table as CSV; lists and other nested values are written as text."""
    for at, field in enumerate(table.schema):
        if not (pa.types.is_primitive(field.type) or pa.types.is_string(field.type)):
            texts = [None if value is None else str(value) for value in table.column(at).to_pylist()]
            table = table.set_column(at, field.name, pa.array(texts, pa.string()))
    pyarrow.csv.write_csv(table, path)


def _spread_out(value_R: np.ndarray, row_R: np.ndarray, rows: int) -> pa.Array:
    """Return values of some rows as a column of all rows, null elsewhere, for NaN, and for None."""
    if value_R.dtype == np.float64:
        value_M: np.ndarray = np.full(rows, np.nan)
    else:
        value_M = np.full(rows, None, object)
    value_M[row_R] = value_R
    return pa.array(
        value_M, {"f": pa.float64(), "b": pa.bool_()}.get(value_R.dtype.kind, pa.string()), from_pandas=True
    )
