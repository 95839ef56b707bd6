"""The table of predictions for a file: the columns of the file, followed by the new ones.

Shapes: M rows, R of them with a molecule, L outputs (one per target, or one per class of the only target), S seeds.
"""

import numpy as np
import pyarrow as pa

from unimol_scale.downstream.finetuning.labelled_rows import CONFORMER_SPREAD, DROPOUT_SPREAD, PREDICTED, SPREAD
from unimol_scale.downstream.finetuning.predictions.seed_predictions import SeedPredictions
from unimol_scale.downstream.labels.new_columns import free_name, spread_out


def predicted_table(file_columns: pa.Table, found: SeedPredictions) -> tuple[pa.Table, str]:
    """Return the columns of a file followed by the new ones, and a line on renamed new columns ("" if none).

    Args:
        file_columns: columns of the file, M rows.
        found: predictions for the rows that have a molecule.
    """
    row_R, value_SRL, conformer_std_RL = found.row_R, found.value_SRL, found.conformer_std_RL
    M = len(found.molecules.smiles)
    used, changes = np.full(M, None), np.full(M, None)
    used[row_R] = [found.molecules.smiles[row] for row in row_R.tolist()]
    changes[row_R] = [found.molecules.changes[row] for row in row_R.tolist()]
    taken = set(file_columns.column_names)
    renamed = []

    def named(name: str, *, is_target: bool = False) -> str:
        free = free_name(name, taken, PREDICTED if is_target else None)
        taken.add(free)
        if free != name:
            renamed.append(f"{free!r} instead of {name!r}")
        return free

    row = named("row")
    ours = {named("smiles_used"): pa.array(used, pa.string()), named("changes"): pa.array(changes, pa.string())}
    outputs = found.config.outputs
    decided = outputs.decide(value_SRL.mean(0))
    for at, target in enumerate(outputs.targets):
        title = target
        if target in decided:
            title = named(target, is_target=True)
            ours[title] = spread_out(decided[target], row_R, M)
        for place in outputs.places(at):
            name = named(outputs.names[place], is_target=True)
            title = title if target in decided else name
            ours[name] = spread_out(value_SRL[:, :, place].mean(0), row_R, M)
            if len(value_SRL) > 1:
                ours[named(f"{name}{SPREAD}")] = spread_out(value_SRL[:, :, place].std(0, ddof=1), row_R, M)
            if conformer_std_RL is not None:
                ours[named(f"{name}{CONFORMER_SPREAD}")] = spread_out(conformer_std_RL[:, place], row_R, M)
            if found.dropout_std_RL is not None:
                ours[named(f"{name}{DROPOUT_SPREAD}")] = spread_out(found.dropout_std_RL[:, place], row_R, M)
        for ending, values_R in found.belief.target_columns(outputs, at).items():
            ours[named(f"{title} {ending}")] = spread_out(values_R, row_R, M)
    for title, values_R in found.belief.domain_columns(outputs).items():
        ours[named(title)] = spread_out(values_R, row_R, M)
    table = pa.Table.from_arrays(
        [pa.array(np.arange(1, M + 1)), *file_columns.columns, *ours.values()],
        names=[row, *file_columns.column_names, *ours],
    )
    line = f"The file already has columns with the usual names, so the new ones are named: {', '.join(renamed)}."
    return table, line if renamed else ""
