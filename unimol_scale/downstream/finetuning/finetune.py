"""Runs a fine-tuning from start to end: rows, split, one model for each seed or fold, predictions, report.

The result of a finished fine-tuning with the same settings is read from its folder. Models that an unfinished one, or
one with fewer seeds or fewer repeats of a cross-validation, has done are kept: model n has the seed of the fine-tuning
plus n, and the models of a cross-validation are counted repeat by repeat and fold by fold.

Shapes: M rows, L targets.
"""

import functools
import logging
from collections.abc import Sequence
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
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.against_baselines import FittedMember, judge_baselines
from unimol_scale.downstream.finetuning.atom_references import FittedReferences
from unimol_scale.downstream.finetuning.cautions import count_labelled_molecules, mean_scores
from unimol_scale.downstream.finetuning.confidence.assess import Assessment, FinishedModels, asks_anew, assess
from unimol_scale.downstream.finetuning.finetuning_folder import (
    InputHashes,
    check_folder,
    hash_inputs,
    hydrogens_begun_with,
    with_begun_view,
    write_settings,
)
from unimol_scale.downstream.finetuning.folds.fold_files import write_out_of_fold, write_splits
from unimol_scale.downstream.finetuning.labelled_rows import Rows, load_rows
from unimol_scale.downstream.finetuning.model.saved_model import (
    FORMAT_VERSION,
    FinetunedConfig,
    Member,
    save_config,
)
from unimol_scale.downstream.finetuning.one_seed import SeedProblem, StartingModel, fit_seed, seed_vectors
from unimol_scale.downstream.finetuning.reporting.finetune_report import write_report
from unimol_scale.downstream.finetuning.reporting.learning_curve import lacks_curve, measure_curve
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult
from unimol_scale.downstream.finetuning.row_parts import check_labels, count_rows, split_labelled, take_off_references
from unimol_scale.downstream.labels.learning_notes import describe_learning
from unimol_scale.downstream.labels.outputs import absent_classes, describe_classes
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import default_metric
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import ModelConfig, preset
from unimol_scale.store.schema import Float64, Int32, Int64

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
    config = replace(config.with_counts, hydrogens=_sees_hydrogens(config))
    check_folder(folder, config, hashes)
    require_folder(folder)
    finished = results.read(folder)
    if finished is not None and _has_all(finished, config):
        wants_baselines = config.baselines and results.lacks_baselines(folder)
        wants_curve = config.learning_curve and finished.has_test and lacks_curve(folder)
        if not wants_baselines and not wants_curve and not asks_anew(finished.confidence, config):
            return finished
    if chosen.inputs == "2d" and config.train.noise_std:
        raise ConfigError(NOISE_NEEDS_3D)
    if chosen.warning:
        _log.warning(chosen.warning)
    check_conformers(config.conformers, chosen.inputs)
    problems = _prepare(config, model, chosen)
    problem = problems[0]
    write_settings(folder, config, hashes)
    write_splits(folder, problem.rows.molecules.smiles, [(each.fold, each.split) for each in problems])
    if problem.rows.molecules.skipped:
        write_skipped(folder / "skipped.csv", problem.rows.molecules.skipped)
    store, leakage = _pretraining_overlap(problems)
    count = config.num_seeds
    seeds = [
        fit_seed(each, config.seed + place * count + number)
        for place, each in enumerate(problems)
        for number in range(count)
    ]
    if config.is_kfold:
        write_out_of_fold(folder, [seed.outcome for seed in seeds])
    done = replace(
        _result(problems, hashes, [seed.outcome for seed in seeds]),
        notes=(
            *_reference_notes(problem),
            *_notes(problems, chosen, None if problem.start.backbone is None else store),
        ),
        leakage=leakage,
    )
    if config.baselines:
        done = replace(done, baselines=_baselines(problems, done))
    saved = _saved(problem, chosen, [seed.member for seed in seeds])
    found = _confidence(problems, saved, done)
    done = replace(done, confidence=found.results)
    curve = measure_curve(config, done, finetune) if config.learning_curve and done.has_test else ()
    write_report(folder, done, config, found.worst, curve)
    save_config(folder, replace(saved, conformal=found.conformal, domain=found.domain))
    results.write(folder, done)
    return done


def _baselines(problems: Sequence[SeedProblem], done: FinetuneResult) -> BaselineResults:
    """Return the baselines of every split, and how all models differ from them."""
    of_fold = {each.fold: each for each in problems}
    own = [(seed.seed, of_fold[seed.fold]) for seed in done.seeds]
    members = [
        FittedMember(seed=seed, rows=each.rows, split=each.split, weight_RL=each.weight_RL) for seed, each in own
    ]
    problem = problems[0]
    return judge_baselines(problem.config.folder, members, problem.metric, standardised=not done.has_mean)


def _confidence(problems: Sequence[SeedProblem], saved: FinetunedConfig, done: FinetuneResult) -> Assessment:
    """Return how sure the predictions of all models are."""
    problem = problems[0]
    return assess(
        FinishedModels(
            config=problem.config,
            outcome=done,
            rows=problem.rows,
            splits=[each.split for each in problems],
            metric=problem.metric,
            vectors=functools.partial(seed_vectors, problem, saved),
        )
    )


def _prepare(config: FinetuneConfig, model: ModelConfig, chosen: ChosenInputs) -> list[SeedProblem]:
    """Return what is fitted: one problem, or one for each fold of each repeat of a cross-validation."""
    device = pick_device(config.device)
    own = None if config.metric is None else METRICS.entry(config.metric)
    sees_3d = chosen.inputs != "2d"
    rows = load_rows(config, geometry=sees_3d)
    if sees_3d:
        require_conformers(rows.molecules.split)
    metric = default_metric(rows.task) if own is None else own
    splits = [
        (fold, split, *_learnt(config, rows, split, metric, fold)) for fold, split in split_labelled(config, rows)
    ]
    start = _start(config, model)
    return [
        SeedProblem(
            config=config, rows=learnt, split=split, start=start, view=chosen.view, metric=metric, device=device,
            references=references, fold=fold,
        )
        for fold, split, learnt, references in splits
    ]  # fmt: skip


def _learnt(
    config: FinetuneConfig, rows: Rows, split: DataSplit, metric: Metric, fold: Fold | None
) -> tuple[Rows, dict[str, FittedReferences]]:
    """Return the rows as they are learnt in a split, and target → energies of the elements that were taken off.

    Raises:
        ConfigError: a part of the split cannot be learnt or judged; names the fold.
    """
    try:
        learnt, references = take_off_references(config, rows, split)
        check_labels(config, learnt, split, metric)
    except ConfigError as error:
        if fold is None:
            raise
        raise ConfigError(f"{fold} of the cross-validation: {error}") from error
    return learnt, references


def _pretraining_overlap(problems: Sequence[SeedProblem]) -> tuple[Path | None, str | None]:
    """Return the store of the pretraining, and what it has of the test molecules; None where that is not known."""
    problem = problems[0]
    pretrained_on = problem.start.pretrained_on
    store = problem.config.pretraining_store or (pretrained_on.path if pretrained_on else None)
    if not len(_tested(problems)):
        return store, None
    if store is not None:
        return store, _leakage(store, problem.rows, _tested(problems)).describe()
    if pretrained_on is not None:
        missing = pretrained_on.missing
        return None, f"leakage: not checked, because {missing}; name it with pretraining_store=DIR"
    return None, None


def _tested(problems: Sequence[SeedProblem]) -> Int64:
    """Return the rows that are tested in any fold, int64, ascending."""
    return np.unique(np.concatenate([problem.split.test for problem in problems]))


def _result(problems: Sequence[SeedProblem], hashes: InputHashes, seeds: Sequence[SeedResult]) -> FinetuneResult:
    """Return the result without notes and leakage."""
    problem = problems[0]
    config, rows, metric = problem.config, problem.rows, problem.metric
    test = _tested(problems)
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
        split_sizes=problem.split_sizes,
        notes=(),
        leakage=None,
        seeds=tuple(seeds),
        trivial=mean_scores([each.trivial for each in problems]),
        test_molecules=count_labelled_molecules(rows.molecules.position_M[test], rows.labels_ML[test]),
        label_std=problem.scaling.spread_L,
        row_counts=count_rows(rows, [each.split for each in problems]),
        classes=dict(rows.classes),
    )


def _saved(problem: SeedProblem, chosen: ChosenInputs, members: Sequence[Member]) -> FinetunedConfig:
    """Return what a later program needs to predict with the models."""
    config, rows = problem.config, problem.rows
    whole = problem.references if problem.fold is None else {}  # the models of folds have their own
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
        references={target: one.energies for target, one in whole.items()},
        hydrogens=bool(config.hydrogens),
        conformers=config.conformers,
        head=config.head,
        classes=dict(rows.classes),
        transforms=config.transforms_of(rows.targets),
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


def _reference_notes(problem: SeedProblem) -> list[str]:
    """Return lines on the energies of the elements; of a cross-validation, of the first fold."""
    said = [one.describe(target, problem.rows.units.get(target, "")) for target, one in problem.references.items()]
    return (
        said if problem.fold is None else [f"each fold fits its own energies; {problem.fold}: {line}" for line in said]
    )


def _has_all(finished: FinetuneResult, config: FinetuneConfig) -> bool:
    """Return whether a result has all the models; its folder has been found to be of the same settings."""
    if config.is_kfold:
        return finished.num_repeats == config.repeats
    return len(finished.seeds) == config.num_seeds


def _overlap(problem: SeedProblem) -> str:
    """Return a line on test molecules and scaffolds that are in training, too; of a cross-validation, in this fold."""
    molecules, split = problem.rows.molecules, problem.split
    line = describe_overlap(
        split.test,
        np.concatenate([split.train, split.valid]),
        key_M=molecules.key_M,
        smiles=molecules.smiles,
        scaffold_smiles=molecules.scaffold_smiles,
    )
    return line if problem.fold is None or not line else f"{problem.fold}: {line}"


def _notes(problems: Sequence[SeedProblem], chosen: ChosenInputs, store: Path | None) -> tuple[str, ...]:
    """Return notes on the data for the user; ``store`` is that of the pretraining, None for random weights."""
    problem = problems[0]
    config, rows = problem.config, problem.rows
    molecules = rows.molecules
    overlap = _overlap(problem)
    larger = "" if store is None else describe_larger(store, *_num_atoms(rows))
    reduced = molecules.describe_changes()
    geometry = describe_geometry(config.data, sees_3d=chosen.inputs != "2d")
    few = rows.describe_conformers(config.conformers)
    said = (chosen.warning, reduced, rows.describe_repeated(), overlap, larger, geometry, few)
    notes = [*describe_classes(rows.outputs, rows.labels_ML[rows.usable_M]), *(note for note in said if note)]
    if config.task is None and (classes := rows.describe_integers()):
        notes.append(classes)
    one_class = [target for at, target in enumerate(rows.targets) if any(_has_one_class(each, at) for each in problems)]
    if one_class:
        where = "" if problem.fold is None else " of some fold"
        notes.append(f"targets with one class only among the training rows{where}: {', '.join(one_class)}")
    notes += describe_learning(config, rows.outputs, _train_weights(problem), str(problem.fold or ""))
    if absent := absent_classes(rows.outputs, [rows.labels_ML[each.split.train] for each in problems]):
        notes.append(f"classes without a training row, which are never predicted: {', '.join(absent)}")
    return tuple(notes)


def _has_one_class(problem: SeedProblem, target: int) -> bool:
    labels_R = problem.rows.labels_ML[problem.split.train, target]
    return len(np.unique(labels_R[~np.isnan(labels_R)])) == 1


def _train_weights(problem: SeedProblem) -> Float64 | None:
    return None if problem.rows.weight_M is None else problem.rows.weight_M[problem.split.train]


def _num_atoms(rows: Rows) -> tuple[Int32, Int32 | None]:
    """Return the heavy atoms, int32, of every molecule with a label, and all its atoms if hydrogens are among them."""
    split, position_R = rows.molecules.split, np.unique(rows.molecules.position_M[rows.usable_M])
    num_atoms_R = split.sizes(position_R)[0]
    if not rows.molecules.hydrogens:
        return num_atoms_R, None
    return heavy_counts(split.gather(position_R)), num_atoms_R


def _leakage(store: Path, rows: Rows, test: Int64) -> Leakage:
    molecules = rows.molecules
    return report_leakage(
        store,
        key_M=molecules.key_M[test],
        scaffold_M=molecules.scaffold_M[test],
        smiles=[molecules.smiles[row] for row in test.tolist()],
        scaffold_smiles=[molecules.scaffold_smiles[row] for row in test.tolist()],
    )
