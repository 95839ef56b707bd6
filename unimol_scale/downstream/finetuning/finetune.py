"""Runs a fine-tuning from start to end: rows, split, one model per seed or fold, predictions, report.

The result of a finished fine-tuning with the same settings is read from its folder. Finished models are kept if the
fine-tuning was interrupted, or is run again with more seeds or with more repeats of a cross-validation. Model n has the
seed of the fine-tuning plus n; the models of a cross-validation are counted repeat by repeat and fold by fold.

Shapes: M rows, L targets.
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace

import torch

from unimol_scale.common.output_checks import require_folder
from unimol_scale.downstream.baselines.baseline_results import BaselineResults
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.inputs import ChosenInputs, check_conformers
from unimol_scale.downstream.data.skipped_rows import write_skipped
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.adaptation.freezing import check_trained_layers
from unimol_scale.downstream.finetuning.against_baselines import FittedMember, judge_baselines
from unimol_scale.downstream.finetuning.cautions import count_labelled_molecules, mean_scores
from unimol_scale.downstream.finetuning.confidence.assess import Assessment, FinishedModels, asks_anew, assess
from unimol_scale.downstream.finetuning.finetuning_folder import (
    InputHashes,
    check_folder,
    write_settings,
)
from unimol_scale.downstream.finetuning.folds.fold_files import write_out_of_fold, write_splits
from unimol_scale.downstream.finetuning.model.noisy_nodes import NOISE_NEEDS_3D
from unimol_scale.downstream.finetuning.model.saved_model import (
    FORMAT_VERSION,
    FinetunedConfig,
    Member,
    save_config,
)
from unimol_scale.downstream.finetuning.one_seed import (
    FinishedSeed,
    fit_as_told,
    fit_seed,
    is_fitted,
    judge_settings,
    seed_vectors,
)
from unimol_scale.downstream.finetuning.problem.data_notes import (
    data_notes,
    pretraining_overlap,
    reference_notes,
    tested_rows,
)
from unimol_scale.downstream.finetuning.problem.identity import identify_start, settle
from unimol_scale.downstream.finetuning.problem.inner_folds import tune_problem
from unimol_scale.downstream.finetuning.problem.prepare_problems import prepare_problems
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.downstream.finetuning.problem.training_forecast import TrainingAmount, TrainingForecast
from unimol_scale.downstream.finetuning.processes.fit_in_processes import fit_in_processes
from unimol_scale.downstream.finetuning.processes.models_at_once import check_models_at_once, plan_processes
from unimol_scale.downstream.finetuning.reporting.finetune_report import write_report
from unimol_scale.downstream.finetuning.reporting.learning_curve import lacks_curve, measure_curve
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult
from unimol_scale.downstream.finetuning.row_parts import count_rows
from unimol_scale.downstream.finetuning.tuning.search import require_optuna
from unimol_scale.downstream.finetuning.tuning.tuning_lines import describe_search
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import ModelConfig

_log = logging.getLogger(__name__)


def finetune(config: FinetuneConfig, ranks: Ranks | None = None) -> FinetuneResult:
    """Fine-tune, or finish a fine-tuning that an earlier call started.

    Args:
        config: settings of the fine-tuning.
        ranks: ranks that share every training. This process is the first of them; the others call ``follow``. None:
            this process works alone.

    Raises:
        ConfigError: a setting is wrong, the folder holds the results of other settings, or a file in it is damaged.
        SourceError: the data is missing or wrong.
        CheckpointError: the pretrained model cannot be loaded.
        RunError: training failed.
    """
    folder = config.folder
    model, hashes, chosen = identify_start(config)
    config = settle(config, model)
    check_folder(folder, config, hashes)
    require_folder(folder)
    finished = results.read(folder)
    if finished is not None and _has_all(finished, config):
        wants_baselines = config.baselines and results.lacks_baselines(folder)
        wants_curve = config.learning_curve and finished.has_test and lacks_curve(folder)
        if not wants_baselines and not wants_curve and not asks_anew(finished.confidence, config):
            return finished
    _check_model(config, model, chosen)
    check_models_at_once(config, ranks)
    problems = prepare_problems(config, model, chosen, hashes, ranks)
    problem = problems[0]
    write_settings(folder, config, hashes)
    write_splits(folder, problem.rows.molecules.smiles, [(each.fold, each.split) for each in problems])
    if problem.rows.molecules.skipped:
        write_skipped(folder / "skipped.csv", problem.rows.molecules.skipped)
    store, leakage = pretraining_overlap(problems)
    tuning = [tune_problem(each, judge_settings) for each in problems] if config.tune else []
    if tuning:
        found = zip(problems, tuning, strict=True)
        problems = [replace(each, config=one.best.settings.apply(config)) for each, one in found]
        problem = problems[0]
    seeds = _fit_all(problems, config)
    outcomes = [seed.outcome for seed in seeds]
    done = replace(
        _result(problems, hashes, outcomes),
        notes=(
            *describe_search(tuning),
            *problem.config.train.describe([one.chosen for one in outcomes]),
            *reference_notes(problem),
            *data_notes(problems, chosen, None if problem.start.backbone is None else store),
        ),
        leakage=leakage,
        tuning=tuple(tuning),
    )
    if config.baselines:
        done = replace(done, baselines=_baselines(problems, done))
    saved = _saved(problem, chosen, [seed.member for seed in seeds])
    sure = _confidence(problems, saved, done)
    done = replace(done, confidence=sure.results)
    curve = measure_curve(problem.config, done, finetune) if config.learning_curve and done.has_test else ()
    write_report(folder, done, config, sure.worst, curve)
    save_config(folder, replace(saved, conformal=sure.conformal, domain=sure.domain))
    results.write(folder, done)
    return done


def follow(config: FinetuneConfig, ranks: Ranks) -> None:
    """Take part in the trainings of a fine-tuning, on any rank but the first, until the first one sends the end.

    Nothing is written except missing conformers in the cache, which one of the ranks generates.
    """
    model, hashes, chosen = identify_start(config)
    problems: dict[Fold | None, SeedProblem] = {}
    while (job := ranks.told_by_main()) is not None:
        if not problems:
            problems = {each.fold: each for each in prepare_problems(job.config, model, chosen, hashes, ranks)}
        fit_as_told(replace(problems[job.fold], config=job.config, split=job.split), job.seed)


def _check_model(config: FinetuneConfig, model: ModelConfig, chosen: ChosenInputs) -> None:
    """Check the settings that depend on the model or on an extra, before data is read; warn about unsuitable inputs."""
    if chosen.inputs == "2d" and config.train.noise_std:
        raise ConfigError(NOISE_NEEDS_3D)
    check_trained_layers(config.train.trained_layers, model.layers)
    if config.tune:
        require_optuna()
    if chosen.warning:
        _log.warning(chosen.warning)
    check_conformers(config.conformers, chosen.inputs)


def _fit_all(problems: Sequence[SeedProblem], config: FinetuneConfig) -> list[FinishedSeed]:
    """Return the models of all seeds or folds; for a cross-validation, write their out-of-fold predictions."""
    count = config.num_seeds
    members = [
        (each, config.seed + place * count + number) for place, each in enumerate(problems) for number in range(count)
    ]
    missing = [(each, seed) for each, seed in members if not is_fitted(each, seed)]
    processes = plan_processes([each for each, _ in members], len(missing), torch.get_num_threads())
    forecast = _forecast(missing, len(members), processes.count)
    if forecast is not None and processes.count:
        fit_in_processes(config, missing, processes, forecast)
    seeds = [fit_seed(each, seed, forecast) for each, seed in members]
    if config.is_kfold:
        write_out_of_fold(config.folder, [seed.outcome for seed in seeds])
    return seeds


def _forecast(missing: Sequence[tuple[SeedProblem, int]], models: int, at_once: int) -> TrainingForecast | None:
    """Say how much there is to train; None: nothing, since a probe is fitted or all models are there.

    Args:
        missing: what is to be fitted, and the seed of each model.
        models: number of all models.
        at_once: number of models that are trained at the same time.
    """
    if not missing or missing[0][0].config.train.probe is not None:
        return None
    first = missing[0][0]
    amount = TrainingAmount(
        models=len(missing),
        finished=models - len(missing),
        at_once=at_once,
        train=len(first.split.train),
        valid=len(first.split.valid) * first.config.conformers,
        config=first.config.train,
    )
    return TrainingForecast(amount)


def _baselines(problems: Sequence[SeedProblem], done: FinetuneResult) -> BaselineResults:
    """Return the baselines of every split, and their comparison with the models."""
    of_fold = {each.fold: each for each in problems}
    own = [(seed.seed, of_fold[seed.fold]) for seed in done.seeds]
    members = [
        FittedMember(seed=seed, rows=each.rows, split=each.split, weight_RL=each.weight_RL) for seed, each in own
    ]
    problem = problems[0]
    return judge_baselines(problem.config.folder, members, problem.metric, standardised=not done.has_mean)


def _confidence(problems: Sequence[SeedProblem], saved: FinetunedConfig, done: FinetuneResult) -> Assessment:
    """Return the measured uncertainty of the predictions of all models."""
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


def _result(problems: Sequence[SeedProblem], hashes: InputHashes, seeds: Sequence[SeedResult]) -> FinetuneResult:
    """Return the result without notes and leakage."""
    problem = problems[0]
    config, rows, metric = problem.config, problem.rows, problem.metric
    test = tested_rows(problems)
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
        test_molecules=count_labelled_molecules(rows.molecules.key_M[test], rows.labels_ML[test]),
        label_std=problem.scaling.spread_L,
        row_counts=count_rows(rows, [each.split for each in problems]),
        classes=dict(rows.classes),
    )


def _saved(problem: SeedProblem, chosen: ChosenInputs, members: Sequence[Member]) -> FinetunedConfig:
    """Return the content of ``finetuned.json``, which prediction needs."""
    config, rows = problem.config, problem.rows
    whole = problem.references if problem.fold is None else {}  # the models of folds have their own
    return FinetunedConfig(
        format_version=FORMAT_VERSION,
        model=problem.start.model,
        pooling=config.molecule_pooling,
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
        masks=problem.start.masks,
        references={target: one.energies for target, one in whole.items()},
        hydrogens=bool(config.hydrogens),
        conformers=config.conformers,
        head=config.train.head_of(config.head),
        classes=dict(rows.classes),
        transforms=config.transforms_of(rows.targets),
    )


def _has_all(finished: FinetuneResult, config: FinetuneConfig) -> bool:
    """Return whether a result has all the models; its folder is known to have the same settings."""
    if config.is_kfold:
        return finished.num_repeats == config.repeats
    return len(finished.seeds) == config.num_seeds
