"""Predicts properties of molecules, given as SMILES, a file or a store, with a fine-tuned model.

Shapes: M rows, R of them with a molecule, L outputs (one per target, or one per class of the only target), S seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, TypedDict, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from unimol_scale.common.files import commit_file
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.output_checks import require_file
from unimol_scale.common.progress import StageProgress
from unimol_scale.downstream.config import Fragments
from unimol_scale.downstream.data.batches import RowReader, SampleMaker, each_conformer_once
from unimol_scale.downstream.data.inputs import check_conformers, describe_unseen, require_conformers
from unimol_scale.downstream.data.labelled_tables import LabelledTable, read_table
from unimol_scale.downstream.data.molecule_files import check_apart, check_there, is_store, skipped_file
from unimol_scale.downstream.data.molecules import Prepared, leaves_out_hydrogens, prepare, prepare_store
from unimol_scale.downstream.data.sdf_table import describe_geometry
from unimol_scale.downstream.data.skipped_rows import Skipped, refuser_for, write_skipped
from unimol_scale.downstream.finetuning.atom_references import (
    References,
    composition,
    reference_energies,
    without_reference,
)
from unimol_scale.downstream.finetuning.confidence.belief import Believing
from unimol_scale.downstream.finetuning.model.conformer_statistics import ConformerStatistics
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig, load_member, read_config
from unimol_scale.downstream.finetuning.model.training import predict_conformers
from unimol_scale.downstream.finetuning.predictions.dropout_spread import check_dropout, dropout_spread
from unimol_scale.downstream.finetuning.predictions.output_table import predicted_table
from unimol_scale.downstream.finetuning.predictions.seed_predictions import SeedPredictions
from unimol_scale.downstream.labels.new_columns import write_csv
from unimol_scale.errors import ConfigError, SourceError
from unimol_scale.store.schema import LABEL_PREFIX, Float64, Int64
from unimol_scale.store.shards import open_store


class PredictOptions(TypedDict):
    """Options of a prediction.

    Attributes:
        smiles_column: name of the SMILES column of a table; None: found by its usual names.
        skip_bad: skip rows without a usable molecule instead of stopping.
        cache: folder of cached conformers.
        max_pairs: maximum number of padded pairs in a micro-batch; None: chosen for the device.
        device_name: "auto", "cpu" or "cuda".
        fragments: what to do with rows of several fragments: "largest" or "reject"; None: as in the fine-tuning.
        conformers: number of conformers per molecule over which predictions are averaged; None: as in the fine-tuning.
        coverage: target coverage of intervals or sets; None: as in the fine-tuning.
        domain: whether to look for the nearest training molecule of each molecule; absent: yes.
        dropout_samples: number of draws of the head's dropout for ``dropout_std``; 0 or absent: no such spread.
    """

    smiles_column: str | None
    skip_bad: bool
    cache: Path
    max_pairs: int | None
    device_name: str
    fragments: NotRequired[Fragments | None]
    conformers: NotRequired[int | None]
    coverage: NotRequired[float | None]
    domain: NotRequired[bool]
    dropout_samples: NotRequired[int]


@dataclass(frozen=True, kw_only=True)
class AskedRows:
    """Rows to be predicted.

    Attributes:
        columns: columns of the file, [M] each, unchanged.
        molecules: molecules of the rows.
        conformers: maximum number of conformers used per molecule.
        leaves_out_hydrogens: whether hydrogens must be removed, since the model sees only heavy atoms.
    """

    columns: pa.Table
    molecules: Prepared
    conformers: int
    leaves_out_hydrogens: bool


def predict_molecules(source: Path | Sequence[str], folder: Path, **options: Unpack[PredictOptions]) -> SeedPredictions:
    """Predict properties of molecules; if no molecule is usable, the result is empty.

    Args:
        source: SMILES strings, or the path of a table, file of SMILES lines, SDF or conformer store.
        folder: folder written by ``finetune``.
        options: see ``PredictOptions``.

    Raises:
        SourceError: a file is missing or wrong, or a molecule is unusable and ``skip_bad`` is off.
        CheckpointError: the folder is not a fine-tuned model, or a file in it is damaged.
        ConfigError: the device does not exist, or an option does not fit the model.
        StoreError: the store is damaged, or holds 2D depictions but the model sees conformers.
        RunError: a prediction is not a finite number.
    """
    config = read_config(folder)
    device = pick_device(options["device_name"])
    return _predict(asked_rows(source, config, options), folder, config, options, device)


def asked_rows(source: Path | Sequence[str], config: FinetunedConfig, options: PredictOptions) -> AskedRows:
    """Return the rows to predict, with their molecules as the model sees them.

    Raises:
        SourceError: a file is missing or wrong, or a molecule is unusable and ``skip_bad`` is off.
        ConfigError: an option does not fit the model.
        StoreError: the store is damaged, or holds 2D depictions but the model sees conformers.
    """
    if not isinstance(source, Path):
        nothing = np.empty((len(source), 0))
        table = LabelledTable(name="SMILES", smiles=tuple(source), labels_ML=nothing, targets=(), splits=None)
        return _of_table(table, config, options)
    check_there(source)
    return _of_store(source, config, options) if is_store(source) else _of_file(source, config, options)


def predict_file(file: Path, folder: Path, output: Path, **options: Unpack[PredictOptions]) -> str:
    """Write a table with one line for each row of the file; return lines for the user.

    The columns are, in this order:

    - ``row``, counted from 1 without the header;
    - every column of the file, unchanged;
    - ``smiles_used``, the canonical SMILES that the model saw, and ``changes``, how this molecule differs from the one
      in the file, such as a removed fragment (empty if it does not differ);
    - for each target its prediction, the mean over seeds. For named classes this is the name of the predicted class,
      followed by "TARGET p(CLASS)": the probability of the positive class of two, or of each of several classes;
    - with several seeds, ``seed_std``, the standard deviation over seeds, which is not an error bar;
    - with several conformers, ``conformer_std``, the standard deviation over conformers as a mean over seeds (empty
      for a molecule with one conformer);
    - with ``dropout_samples``, ``dropout_std``, the standard deviation over draws of the head's dropout as a mean over
      seeds;
    - the ends of a conformal interval, ``low`` and ``high``, for regression; the conformal set ``classes`` for classes;
    - the nearest training molecule, and whether the row is in the applicability domain (``Belief.domain_columns``).

    Rows without a usable molecule have empty predictions. If the file already has a column with one of these names, the
    new column has another name.

    Args:
        file: table, file of SMILES lines, SDF, or conformer store, whose conformers are then used.
        folder: folder of a fine-tuned model.
        output: path of the table to write, ``.csv`` or ``.parquet``.
        options: see ``PredictOptions``.

    Raises:
        SourceError: the file is missing or wrong, or has rows without a usable molecule and ``skip_bad`` is off.
        CheckpointError: the folder is not a fine-tuned model, or a file in it is damaged.
        ConfigError: the output has a wrong name or cannot be written, the device does not exist, or an option does not
            fit the model.
        StoreError: the store is damaged, or holds 2D depictions but the model sees conformers.
        RunError: a prediction is not a finite number.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"--output {output}: the name must end in .csv or .parquet")
    check_apart(output, file)
    config = read_config(folder)
    device = pick_device(options["device_name"])
    check_there(file)
    asked = _of_store(file, config, options) if is_store(file) else _of_file(file, config, options, output)
    require_file(output)
    molecules = asked.molecules
    if not (molecules.position_M >= 0).any():
        raise SourceError(f"{file}: no row has a usable molecule")
    found = _predict(asked, folder, config, options, device)
    written, renamed = predicted_table(asked.columns, found)
    write = pq.write_table if output.suffix == ".parquet" else write_csv
    commit_file(output, lambda temporary: write(written, temporary))
    geometry = describe_geometry(file, sees_3d=_sees_3d(config))
    lines = [f"{len(found.row_R):,} of {len(molecules.smiles):,} rows predicted: {output}"]
    skipped = skipped_file(output)
    skipped.unlink(missing_ok=True)  # from an earlier call
    if molecules.skipped:
        write_skipped(skipped, molecules.skipped)
        lines[0] += f"; the others: {skipped}"
    said = (*found.belief.notes, unseen_inputs(config), molecules.describe_changes(), renamed, geometry)
    lines += [line for line in (*said, molecules.describe_counts()) if line]
    return "\n".join(lines)


def _of_file(file: Path, config: FinetunedConfig, options: PredictOptions, output: Path | None = None) -> AskedRows:
    table = read_table(file, smiles_column=options["smiles_column"], targets=())
    if output is not None:
        require_file(output)  # before conformers are made, which can take minutes
    return _of_table(table, config, options, file)


def _of_table(
    table: LabelledTable, config: FinetunedConfig, options: PredictOptions, file: Path | None = None
) -> AskedRows:
    where = table.name if file is None else str(file)
    conformers = _conformers(config, options)
    molecules = prepare(
        table.smiles,
        cache=options["cache"],
        geometry=_sees_3d(config),
        max_atoms=config.max_atoms,
        workers=None,
        refuse=None if options["skip_bad"] else refuser_for(where, len(table.smiles)),
        fragments=options.get("fragments") or config.fragments,
        problems=table.problems,
        hydrogens=config.hydrogens,
        conformers=conformers,
    )
    molecules = _with_references(molecules, config, where, skip_bad=options["skip_bad"])
    return AskedRows(columns=table.columns, molecules=molecules, conformers=conformers, leaves_out_hydrogens=False)


def unseen_inputs(config: FinetunedConfig) -> str:
    """Return a warning if the model saw this kind of input only in fine-tuning, not in pretraining; otherwise ""."""
    return "" if config.pretrained_inputs is None else describe_unseen(config.inputs, config.pretrained_inputs)


def _sees_3d(config: FinetunedConfig) -> bool:
    return config.model.geometry and config.inputs != "2d"


def _conformers(config: FinetunedConfig, options: PredictOptions) -> int:
    """Return the maximum number of conformers to use per molecule."""
    chosen = options.get("conformers")
    if chosen is None:
        return config.conformers
    check_conformers(chosen, config.inputs)
    return chosen


def _of_store(path: Path, config: FinetunedConfig, options: PredictOptions) -> AskedRows:
    if options["smiles_column"] is not None:
        raise ConfigError("--smiles-column applies to tables, not to a store")
    manifest = open_store(path).manifest
    leaves_out = leaves_out_hydrogens(manifest.hydrogens, config.hydrogens, str(path))
    molecules = prepare_store(path, scaffolds=False)
    if _sees_3d(config):
        require_conformers(molecules.split)
    every_M = np.arange(len(molecules.smiles))
    columns = {"id": pa.array(molecules.split.ids(every_M)), "smiles": pa.array(molecules.smiles, pa.string())}
    columns |= {label: molecules.split.column(f"{LABEL_PREFIX}{label}") for label in manifest.labels}
    return AskedRows(
        columns=pa.table(columns),
        molecules=_with_references(molecules, config, str(path), skip_bad=options["skip_bad"]),
        conformers=_conformers(config, options),
        leaves_out_hydrogens=leaves_out,
    )


def _with_references(molecules: Prepared, config: FinetunedConfig, where: str, *, skip_bad: bool) -> Prepared:
    """Skip rows with an element for which the model has no reference energy; no rows if it uses no such energies."""
    each = [references for member in config.members if (references := config.references_of(member))]
    if not each:
        return molecules
    skipped = [
        Skipped(
            row=row,
            smiles=molecules.smiles[row],
            reason="no_reference_energy",
            detail=f"no training molecule of the model contains the element {element}",
        )
        for row in np.flatnonzero(molecules.position_M >= 0).tolist()
        if (element := _without_reference(each, composition(molecules.smiles[row])))
    ]
    if not skip_bad:
        refuser_for(where, len(molecules.smiles))(skipped)
    position_M = molecules.position_M.copy()
    position_M[[one.row for one in skipped]] = -1
    every = sorted([*molecules.skipped, *skipped], key=lambda one: one.row)
    return replace(molecules, position_M=position_M, skipped=tuple(every))


def _without_reference(each: Sequence[Mapping[str, References]], counts: Mapping[str, int]) -> str:
    """Return the first element for which a member has no reference energy; "" if there is none."""
    return next(filter(None, (without_reference(references, counts) for references in each)), "")


def _predict(
    asked: AskedRows, folder: Path, config: FinetunedConfig, options: PredictOptions, device: torch.device
) -> SeedPredictions:
    molecules = asked.molecules
    believing = Believing.of(folder, config, options.get("coverage"), domain=options.get("domain", True))
    row_R = np.flatnonzero(molecules.position_M >= 0)
    value_SRL = std_SRL = np.empty((len(config.members), 0, len(config.outputs.names)))
    vector_RD = dropout_std_RL = None
    draws = options.get("dropout_samples", 0)
    if draws:
        check_dropout(draws, min(member.dropout for member in config.members))
        dropout_std_RL = np.empty((0, len(config.outputs.names)))
    if len(row_R):
        found, each_dropout = _predictions(asked, row_R, folder, believing, options["max_pairs"], device, draws)
        vector_RD = found[0].vector_RD if believing.compares_vectors else None
        dropout_std_RL = np.mean(each_dropout, axis=0) if draws else None
        value_SRL, std_SRL = np.stack([one.mean_RL for one in found]), np.stack([one.std_RL for one in found])
        each = [config.references_of(member) for member in config.members]
        if any(each):
            compositions = [composition(molecules.smiles[row]) for row in row_R.tolist()]
            energies = [reference_energies(references, config.targets, compositions) for references in each]
            value_SRL = value_SRL + np.stack(energies)
    return SeedPredictions(
        config=config,
        molecules=molecules,
        row_R=row_R,
        value_SRL=value_SRL,
        conformer_std_SRL=std_SRL if asked.conformers > 1 else None,
        belief=believing.belief([molecules.smiles[row] for row in row_R.tolist()], value_SRL, vector_RD),
        dropout_std_RL=dropout_std_RL,
    )


def _predictions(
    asked: AskedRows,
    row_R: Int64,
    folder: Path,
    believing: Believing,
    max_pairs: int | None,
    device: torch.device,
    draws: int,
) -> tuple[list[ConformerStatistics], list[Float64]]:
    """Return the predictions of each seed for the R rows, and their spreads over draws of dropout, if requested.

    If vectors are compared, the first seed's predictions include them.
    """
    molecules, config = asked.molecules, believing.config
    unlabelled = np.full((len(row_R), len(config.targets)), np.nan)
    reader = RowReader(
        molecules.split,
        molecules.position_M[row_R],
        unlabelled,
        drop_hydrogens=asked.leaves_out_hydrogens,
        conformers=asked.conformers,
    )
    passes = len(config.members) * len(reader.every_conformer()[0])  # each seed's model sees all conformers
    make_sample = SampleMaker(view=config.shown, model=config.model)
    predictions, spreads = [], []
    seen = 0
    with StageProgress("predicting", len(row_R)) as progress:

        def count(conformers: int) -> None:
            nonlocal seen
            seen += conformers
            progress.advance(seen * len(row_R) // passes - progress.advanced)
            progress.tick()

        for member in config.members:
            scaling = config.scaling_of(member)
            model = load_member(folder, config, member).to(device)
            samples = each_conformer_once(reader, make_sample, max_pairs, device)
            compared = believing.compares_vectors and member is config.members[0]
            needed = compared or draws > 0
            found = predict_conformers(model, samples, scaling, device, on_rows=count, with_vectors=needed)
            predictions.append(found)
            if draws:
                assert found.vector_RD is not None
                spreads.append(dropout_spread(model, found.vector_RD, scaling, draws, device))
    return predictions, spreads
