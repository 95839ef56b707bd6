"""Runs a fine-tuning from start to end: rows, split, one model for each seed, predictions, report.

The result of a finished fine-tuning with the same settings is read from its folder. Seeds that an unfinished one, or
one with fewer seeds, has done are kept.

Shapes: M rows, L targets.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.output_checks import require_folder
from unimol_scale.data.hydrogens import heavy_counts
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.downstream.baselines.baseline_results import BaselineResults
from unimol_scale.downstream.config import NOISE_NEEDS_3D, FinetuneConfig
from unimol_scale.downstream.data.inputs import ChosenInputs, check_conformers, choose_inputs, require_conformers
from unimol_scale.downstream.data.leakage import Leakage, describe_overlap, report_leakage
from unimol_scale.downstream.data.pretraining_data import (
    describe_larger,
    pretrained_with_hydrogens,
    store_of,
)
from unimol_scale.downstream.data.sdf_table import describe_geometry
from unimol_scale.downstream.data.skipped_rows import write_skipped
from unimol_scale.downstream.data.splits import DataSplit
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.against_baselines import FittedMember, judge_baselines
from unimol_scale.downstream.finetuning.atom_references import FittedReferences
from unimol_scale.downstream.finetuning.cautions import count_labelled_molecules, trivial_scores
from unimol_scale.downstream.finetuning.finetune_report import write_report
from unimol_scale.downstream.finetuning.finetuning_folder import (
    InputHashes,
    check_folder,
    hash_inputs,
    hydrogens_begun_with,
    with_begun_view,
    write_settings,
)
from unimol_scale.downstream.finetuning.labelled_rows import Rows, load_rows
from unimol_scale.downstream.finetuning.model.saved_model import (
    FORMAT_VERSION,
    FinetunedConfig,
    Member,
    save_config,
)
from unimol_scale.downstream.finetuning.model.training import Scaling
from unimol_scale.downstream.finetuning.one_seed import SeedProblem, StartingModel, fit_seed
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult
from unimol_scale.downstream.finetuning.row_parts import check_labels, split_labelled, take_off_references
from unimol_scale.downstream.metrics import default_metric
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import ModelConfig, preset
from unimol_scale.store.schema import Int32

_log = logging.getLogger(__name__)


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune, or finish what an earlier call started.

    Raises:
        ConfigError: a setting is wrong, the folder holds the results of other settings, or a file in it is damaged.
        SourceError: the data is missing or wrong.
        CheckpointError: the pretrained model cannot be loaded.
        RunError: training failed.
    """
    folder = config.folder
    model, hashes, chosen = _identify(config)
    config = replace(config, hydrogens=_sees_hydrogens(config))
    check_folder(folder, config, hashes)
    require_folder(folder)
    finished = results.read(folder)
    if finished is not None and len(finished.seeds) == config.seeds:
        wants_baselines = config.baselines and results.lacks_baselines(folder)
        if not wants_baselines:
            return finished
    if chosen.inputs == "2d" and config.train.noise_std:
        raise ConfigError(NOISE_NEEDS_3D)
    if chosen.warning:
        _log.warning(chosen.warning)
    check_conformers(config.conformers, chosen.inputs)
    problem, references = _prepare(config, model, chosen)
    write_settings(folder, config, hashes)
    if problem.rows.molecules.skipped:
        write_skipped(folder / "skipped.csv", problem.rows.molecules.skipped)
    store, leakage = _pretraining_overlap(problem)
    seeds = [fit_seed(problem, config.seed + number) for number in range(config.seeds)]
    done = replace(
        _result(problem, hashes, [seed.outcome for seed in seeds]),
        notes=(
            *(one.describe(target, problem.rows.units.get(target, "")) for target, one in references.items()),
            *_notes(problem, chosen, None if problem.start.backbone is None else store),
        ),
        leakage=leakage,
    )
    if config.baselines:
        done = replace(done, baselines=_baselines(problem, done))
    write_report(folder, done, config)
    save_config(folder, _saved(problem, chosen, references, [seed.member for seed in seeds]))
    results.write(folder, done)
    return done


def _baselines(problem: SeedProblem, done: FinetuneResult) -> BaselineResults:
    """Return the baselines, and how the models of all seeds differ from them."""
    members = [FittedMember(seed=seed.seed, rows=problem.rows, split=problem.split) for seed in done.seeds]
    return judge_baselines(problem.config.folder, members, problem.metric, standardised=not done.has_mean)


def _prepare(
    config: FinetuneConfig, model: ModelConfig, chosen: ChosenInputs
) -> tuple[SeedProblem, dict[str, FittedReferences]]:
    """Return what every seed is fitted to, and target → energies of the elements that were taken off its labels."""
    device = pick_device(config.device)
    own = None if config.metric is None else METRICS.entry(config.metric)
    sees_3d = chosen.inputs != "2d"
    rows = load_rows(config, geometry=sees_3d)
    if sees_3d:
        require_conformers(rows.molecules.split)
    metric = default_metric(rows.task) if own is None else own
    split = split_labelled(config, rows)
    rows, references = take_off_references(config, rows, split)
    check_labels(config, rows, split, metric)
    start = _start(config, model)
    problem = SeedProblem(
        config=config, rows=rows, split=split, start=start, view=chosen.view, metric=metric, device=device
    )
    return problem, references


def _pretraining_overlap(problem: SeedProblem) -> tuple[Path | None, str | None]:
    """Return the store of the pretraining, and what it has of the test molecules; None where that is not known."""
    pretrained_on = problem.start.pretrained_on
    store = problem.config.pretraining_store or (pretrained_on.path if pretrained_on else None)
    if store is not None:
        return store, _leakage(store, problem.rows, problem.split).describe()
    if pretrained_on is not None:
        missing = pretrained_on.missing
        return None, f"leakage: not checked, because {missing}; name it with pretraining_store=DIR"
    return None, None


def _result(problem: SeedProblem, hashes: InputHashes, seeds: Sequence[SeedResult]) -> FinetuneResult:
    """Return the result without notes and leakage."""
    config, rows, split, metric = problem.config, problem.rows, problem.split, problem.metric
    train_RL, test_RL = rows.learnt_ML[split.train], rows.learnt_ML[split.test]
    return FinetuneResult(
        name=rows.name,
        start=config.start,
        start_sha256=None if problem.start.backbone is None else hashes.pretrained,
        task=rows.task,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        in_label_units=metric.in_label_units,
        targets=rows.targets,
        units=rows.units,
        rows=len(rows.labels_ML),
        unlabelled=rows.num_unlabelled,
        skipped=len(rows.molecules.skipped),
        split_sizes={name: len(getattr(split, name)) for name in ("train", "valid", "test")},
        notes=(),
        leakage=None,
        seeds=tuple(seeds),
        trivial=trivial_scores(metric, train_RL, test_RL),
        test_molecules=count_labelled_molecules(rows.molecules.position_M[split.test], rows.labels_ML[split.test]),
        label_std=Scaling.of(train_RL, rows.task).std_L if rows.task == "regression" else (),
    )


def _saved(
    problem: SeedProblem, chosen: ChosenInputs, references: Mapping[str, FittedReferences], members: Sequence[Member]
) -> FinetunedConfig:
    """Return what a later program needs to predict with the models."""
    config, rows = problem.config, problem.rows
    return FinetunedConfig(
        format_version=FORMAT_VERSION,
        model=problem.start.model,
        pooling=config.pooling,
        inputs=chosen.inputs,
        task=rows.task,
        targets=rows.targets,
        units=rows.units,
        metric=problem.metric.name,
        max_atoms=config.max_atoms,
        members=tuple(members),
        fragments=config.fragments,
        view=chosen.view,
        pretrained_inputs=chosen.seen,
        references={target: one.energies for target, one in references.items()},
        hydrogens=bool(config.hydrogens),
        conformers=config.conformers,
        head=config.head,
    )


def _identify(config: FinetuneConfig) -> tuple[ModelConfig, InputHashes, ChosenInputs]:
    """Return the dimensions of the model with the dropouts of its training, hashes of the input, and what it is shown.

    Random weights in the dimensions of a pretrained model are shown what it would be shown, so that scores can be
    compared.

    Released models divide by the padded number of atoms, which would make a prediction depend on the other molecules of
    its micro-batch. Dividing by the number of atoms of each molecule gives what the released model gives for a
    molecule by itself.
    """
    hashes = hash_inputs(config)
    if config.pretrained is None:
        assert config.size is not None
        model, sha256, seen = preset(config.size), None, None
    else:
        model, sha256, seen = identify(config.pretrained)
    chosen = choose_inputs(config.inputs, model, seen)
    standard = STANDARD_VIEWS[chosen.inputs]
    hashes = replace(hashes, pretrained=sha256, view=None if chosen.view == standard else chosen.view)
    hashes = with_begun_view(config.folder, hashes)
    chosen = replace(chosen, view=hashes.view or standard, seen=None if config.reinitialise else chosen.seen)
    return config.train.with_dropouts(replace(model, normalize_by="molecule")), hashes, chosen


def _sees_hydrogens(config: FinetuneConfig) -> bool:
    """Return what was asked for, else what the models of the folder see, else what the pretrained model has seen."""
    if config.hydrogens is not None:
        return config.hydrogens
    begun = hydrogens_begun_with(config.folder)
    if begun is not None or config.pretrained is None:
        return bool(begun)
    return bool(pretrained_with_hydrogens(config.pretrained))


def _start(config: FinetuneConfig, model: ModelConfig) -> StartingModel:
    if config.pretrained is None or config.reinitialise:
        return StartingModel(model=model, backbone=None, coordinate_head=None, pretrained_on=None)
    pretrained = load_pretrained(config.pretrained).float()
    return StartingModel(
        model=model,
        backbone=pretrained.backbone,
        coordinate_head=pretrained.coordinate_head if pretrained.heads.coordinate else None,
        pretrained_on=store_of(Path(config.pretrained)),
    )


def _notes(problem: SeedProblem, chosen: ChosenInputs, store: Path | None) -> tuple[str, ...]:
    """Return notes on the data for the user; ``store`` is that of the pretraining, None for random weights."""
    config, rows, split = problem.config, problem.rows, problem.split
    molecules = rows.molecules
    overlap = describe_overlap(
        split.test,
        np.concatenate([split.train, split.valid]),
        key_M=molecules.key_M,
        smiles=molecules.smiles,
        scaffold_smiles=molecules.scaffold_smiles,
    )
    larger = "" if store is None else describe_larger(store, *_num_atoms(rows))
    reduced = molecules.describe_changes()
    geometry = describe_geometry(config.data, sees_3d=chosen.inputs != "2d")
    few = rows.describe_conformers(config.conformers)
    said = (chosen.warning, reduced, rows.describe_repeated(), overlap, larger, geometry, few)
    notes = [note for note in said if note]
    if config.task is None and (classes := rows.describe_integers()):
        notes.append(classes)
    one_class = [
        target
        for target, labels_R in zip(rows.targets, rows.labels_ML[split.train].T, strict=True)
        if len(np.unique(labels_R[~np.isnan(labels_R)])) == 1
    ]
    if one_class:
        notes.append(f"targets with one class only among the training rows: {', '.join(one_class)}")
    return tuple(notes)


def _num_atoms(rows: Rows) -> tuple[Int32, Int32 | None]:
    """Return the heavy atoms, int32, of every molecule with a label, and all its atoms if hydrogens are among them."""
    split, position_R = rows.molecules.split, np.unique(rows.molecules.position_M[rows.usable_M])
    num_atoms_R = split.sizes(position_R)[0]
    if not rows.molecules.hydrogens:
        return num_atoms_R, None
    return heavy_counts(split.gather(position_R)), num_atoms_R


def _leakage(store: Path, rows: Rows, split: DataSplit) -> Leakage:
    molecules = rows.molecules
    return report_leakage(
        store,
        key_M=molecules.key_M[split.test],
        scaffold_M=molecules.scaffold_M[split.test],
        smiles=[molecules.smiles[row] for row in split.test.tolist()],
        scaffold_smiles=[molecules.scaffold_smiles[row] for row in split.test.tolist()],
    )
