"""Predicts properties of the molecules of a file with a fine-tuned model.

Shapes: M rows, R of them with a molecule, L targets, S seeds.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from conformer_gen.progress import StageProgress
from unimol_scale.common.devices import pick_device
from unimol_scale.downstream.batches import Labelling, RowReader, once
from unimol_scale.downstream.finetuned import load_member, read_config
from unimol_scale.downstream.molecules import prepare
from unimol_scale.downstream.places import check_apart, check_writable, skipped_file
from unimol_scale.downstream.rows import SPREAD, refusing, write_skipped
from unimol_scale.downstream.tables import read_table
from unimol_scale.downstream.training import Scaling, predict
from unimol_scale.errors import ConfigError, SourceError
from unimol_scale.store.files import commit_file


def predict_file(
    file: Path,
    folder: Path,
    output: Path,
    *,
    smiles_column: str | None,
    skip_bad: bool,
    cache: Path,
    max_pairs: int | None,
    device_name: str,
) -> str:
    """Write a table with one line for each row of the file; return a line on it.

    Columns: row (from 1), smiles (as in the file), and for each target its prediction, the mean over seeds, and with
    several seeds their standard deviation. Rows without a usable molecule are empty there, never zero.

    Args:
        file: table or SMILES lines.
        folder: that ``finetune`` wrote.
        output: ``.csv`` or ``.parquet``.
        smiles_column: None finds it by the usual names.
        skip_bad: go on without unusable molecules.
        cache: where stores of conformers are kept.
        max_pairs: most padded pairs of one micro-batch; None: what suits the device.
        device_name: auto, cpu or cuda.

    Raises:
        SourceError: the file is missing or wrong, or holds unusable molecules and ``skip_bad`` is off.
        CheckpointError: the folder is no fine-tuned model, or a file in it is damaged.
        ConfigError: the output's name or place is wrong, or the device is not there.
        RunError: a prediction is not a finite number.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--output {output}: the name must end in .csv or .parquet")
    check_apart(output, file)
    config = read_config(folder)
    device = pick_device(device_name)
    table = read_table(file, smiles_column=smiles_column, targets=())
    check_writable(output)
    geometry = config.model.geometry and config.inputs != "2d"
    molecules = prepare(
        table.smiles,
        cache=cache,
        geometry=geometry,
        max_atoms=config.max_atoms,
        workers=None,
        refuse=None if skip_bad else refusing(file, len(table.smiles)),
    )
    row_R = np.flatnonzero(molecules.position_M >= 0)
    if not len(row_R):
        raise SourceError(f"{file}: no row has a usable molecule")
    L = len(config.targets)
    reader = RowReader(molecules.split, molecules.position_M[row_R], np.full((len(row_R), L), np.nan))
    labelling = Labelling(inputs=config.inputs, model=config.model)
    predictions = []
    seen = 0
    with StageProgress("predicting", len(row_R)) as progress:

        def count(rows: int) -> None:
            nonlocal seen
            seen += rows
            progress.advance(seen // len(config.members) - progress.advanced)  # each model sees all of them
            progress.tick()

        for member in config.members:
            scaling = Scaling(task=config.task, mean_L=member.mean_L, std_L=member.std_L)
            model = load_member(folder, config, member).to(device)
            samples = once(reader, labelling, max_pairs, device)
            predictions.append(predict(model, samples, scaling, device, on_rows=count))
    value_SRL = np.stack(predictions)
    columns: dict[str, pa.Array] = {"row": pa.array(np.arange(1, len(table.smiles) + 1))}
    columns["smiles"] = pa.array(list(table.smiles))
    for at, target in enumerate(config.targets):
        columns[target] = _spread_out(value_SRL[:, :, at].mean(0), row_R, len(table.smiles))
        if len(predictions) > 1:
            columns[f"{target}{SPREAD}"] = _spread_out(value_SRL[:, :, at].std(0, ddof=1), row_R, len(table.smiles))
    written = pa.table(columns)
    write = pq.write_table if output.suffix == ".parquet" else pyarrow.csv.write_csv
    commit_file(output, lambda temporary: write(written, temporary))
    line = f"{len(row_R):,} of {len(table.smiles):,} rows predicted: {output}"
    skipped = skipped_file(output)
    skipped.unlink(missing_ok=True)  # of earlier predictions
    if molecules.skipped:
        write_skipped(skipped, molecules)
        line += f"; the others: {skipped}"
    return line


def _spread_out(value_R: np.ndarray, row_R: np.ndarray, rows: int) -> pa.Array:
    value_M = np.full(rows, np.nan)
    value_M[row_R] = value_R
    return pa.array(value_M, from_pandas=True)
