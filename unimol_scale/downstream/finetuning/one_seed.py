"""Fits the model of one seed: training, a prediction for every labelled row, and scores.

A finished seed is read from its file. In a cross-validation, every fold of every repeat has its own seeds.

Shapes: M rows, L targets, W outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

import unimol_scale.config as strict
from unimol_scale.common.progress import StageProgress
from unimol_scale.common.text.json_files import write_json
from unimol_scale.downstream.data.batches import each_conformer_once, steps_per_epoch
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.adaptation.adapt import adapt
from unimol_scale.downstream.finetuning.adaptation.lora import merge_adapters
from unimol_scale.downstream.finetuning.finetuning_folder import read_recorded
from unimol_scale.downstream.finetuning.model.conformer_statistics import ConformerStatistics
from unimol_scale.downstream.finetuning.model.epochs import Epoch
from unimol_scale.downstream.finetuning.model.noisy_nodes import coordinate_head
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig, Member, load_member, save_member
from unimol_scale.downstream.finetuning.model.training import fit, predict_conformers
from unimol_scale.downstream.finetuning.model.training_progress import EpochProgress, TrainingProgress
from unimol_scale.downstream.finetuning.probe.fit_probe import RATE_FACTORS
from unimol_scale.downstream.finetuning.probe.seed_probe import fit_seed_probe
from unimol_scale.downstream.finetuning.problem.fit_job import FitJob
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.downstream.finetuning.problem.training_forecast import TrainingForecast
from unimol_scale.downstream.finetuning.results import SeedResult
from unimol_scale.downstream.metrics import score
from unimol_scale.errors import RunError
from unimol_scale.store.schema import Float32, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class FinishedSeed:
    """Content of ``seed-N.json``, which is written last and marks the seed as finished.

    Attributes:
        member: the saved model.
        outcome: the scores of the model.
    """

    member: Member
    outcome: SeedResult


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """Epochs of a training, values chosen on the validation rows, and predictions of the usable rows if known."""

    epochs: Sequence[Epoch]
    chosen: dict[str, float] = field(default_factory=dict)
    value_RW: Float64 | None = None


def is_fitted(problem: SeedProblem, seed: int) -> bool:
    """Return whether an earlier call has written the model of a seed."""
    return _finished_path(problem, seed).is_file()


def fit_seed(
    problem: SeedProblem, seed: int, forecast: TrainingForecast | None, progress: TrainingProgress | None = None
) -> FinishedSeed:
    """Fit the model of a seed and write it with its predictions, or read what an earlier call has written.

    Args:
        problem: what is fitted.
        seed: of the model.
        forecast: of the whole fine-tuning; None: nothing is trained, since a probe is fitted or all models are there,
            or another process tells it.
        progress: told of every step and epoch; None: it is shown.

    Raises:
        ConfigError: the file of an earlier call is damaged.
        RunError: training failed, or the test rows cannot be judged.
    """
    done = _finished_path(problem, seed)
    if done.is_file():
        tree = read_recorded(done, "remove it and fine-tune again: only that seed is trained")
        return strict.build(FinishedSeed, tree, strict.Origin(name=str(done), recorded=True))
    scaling = problem.scaling
    model = _new_model(problem, seed)
    trained = _train(problem, model, seed, forecast, progress, is_shown=True)
    value_MW = _predict(problem, model, trained, seed)
    file = f"seed-{seed}.safetensors"
    member = Member(
        file=file,
        sha256=save_member(problem.config.folder, file, model.cpu()),
        mean_L=scaling.mean_L,
        std_L=scaling.std_L,
        pooling=problem.config.molecule_pooling if problem.fold is not None else None,
        dropout=0.0 if problem.config.train.probe == "linear" else problem.config.train.dropout,
        references={} if problem.fold is None else {name: one.energies for name, one in problem.references.items()},
    )
    finished = FinishedSeed(member=member, outcome=_judge(problem, value_MW, trained, seed))
    write_json(done, strict.to_tree(finished))
    return finished


def seed_vectors(problem: SeedProblem, saved: FinetunedConfig, row_R: Int64) -> Float32:
    """Return the inputs of the first model's head for some rows, float32 [R, D], as means over conformers.

    Raises:
        CheckpointError: the file of the model is damaged.
        RunError: memory is full.
    """
    member = saved.members[0]
    model = load_member(problem.config.folder, saved, member).to(problem.device)
    make_sample = problem.make_sample
    samples = each_conformer_once(problem.reader(row_R), make_sample, problem.config.train.max_pairs, problem.device)
    scaling = saved.scaling_of(member)
    total = len(row_R) if problem.config.conformers == 1 else None  # some molecules have fewer than they should
    with StageProgress("vectors for the domain", total) as progress:

        def count(conformers: int) -> None:
            progress.advance(conformers)
            progress.tick()

        vector_RD = predict_conformers(model, samples, scaling, problem.device, count, with_vectors=True).vector_RD
    assert vector_RD is not None, "asked for"
    return vector_RD


def _finished_path(problem: SeedProblem, seed: int) -> Path:
    return problem.config.folder / f"seed-{seed}.json"


def _new_model(problem: SeedProblem, seed: int) -> PropertyModel:
    config, start = problem.config, problem.start
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PropertyModel(
            start.model,
            problem.rows.outputs.num_logits,
            config.molecule_pooling,
            config.train.dropout,
            config.train.head_of(config.head),
            ordered=problem.rows.task == "ordinal",
        )
    if start.backbone is not None:
        model.backbone.load_state_dict(start.backbone.state_dict())
    if config.train.predicts_noise:
        model.coordinate_head = coordinate_head(start.model, start.coordinate_head, seed)
    return model


def judge_settings(problem: SeedProblem, forecast: TrainingForecast | None) -> float:
    """Train a model, discard it, and return its score on the test rows; with several targets, of scaled labels.

    Args:
        problem: what is fitted.
        forecast: of all trainings of this kind; None: their time is not told.

    Raises:
        RunError: training failed, or the score of the rows is not defined.
    """
    seed, test = problem.config.seed, problem.split.test
    model = _new_model(problem, seed)
    trained = _train(problem, model, seed, forecast, None, is_shown=False)
    if trained.value_RW is None:
        reader, max_pairs = problem.reader(test), problem.config.train.max_pairs
        samples = each_conformer_once(reader, problem.make_sample, max_pairs, problem.device)
        value_RW = predict_conformers(model.to(problem.device), samples, problem.scaling, problem.device).mean_RL
    else:
        value_RW = trained.value_RW[np.searchsorted(np.flatnonzero(problem.rows.usable_M), test)]
    comparable = problem.scaling.comparable
    found = score(problem.metric, comparable(problem.rows.learnt_ML[test]), comparable(value_RW))
    if found.value is None:
        raise RunError(f"the held-out rows have no score: {'; '.join(found.undefined[:3])}")
    return found.value


def _train(
    problem: SeedProblem,
    model: PropertyModel,
    seed: int,
    forecast: TrainingForecast | None,
    progress: TrainingProgress | None,
    *,
    is_shown: bool,
) -> _Trained:
    """Train a model in place. Without a ``progress``, ``is_shown`` says whether to show how far it is."""
    config = problem.config
    if config.train.probe is not None:
        of_probe = _progress(problem, seed, rates=len(RATE_FACTORS), is_shown=is_shown and config.train.probe == "mlp")
        probe = fit_seed_probe(problem, model, seed, of_probe)
        known = probe.value_RW if config.conformers == 1 else None  # of several, predictions are averaged
        return _Trained(epochs=probe.fitted.epochs, chosen=probe.fitted.chosen, value_RW=known)
    if problem.ranks is not None:
        job = FitJob(fold=problem.fold, config=config, split=problem.split, seed=seed)
        problem.ranks.told_by_main(job)
    progress = progress or _progress(problem, seed, is_shown=is_shown)
    return _Trained(epochs=_fit(problem, model, seed, forecast, progress))


def fit_as_told(problem: SeedProblem, seed: int) -> None:
    """Take part in a training as another rank than the first one, which keeps what comes of it."""
    _fit(problem, _new_model(problem, seed), seed, None, _progress(problem, seed, is_shown=False))


def _fit(
    problem: SeedProblem, model: PropertyModel, seed: int, forecast: TrainingForecast | None, progress: TrainingProgress
) -> list[Epoch]:
    """Train a backbone and its head in place, as far as they are to be trained."""
    config, training, device, ranks = problem.config, problem.training, problem.device, problem.ranks
    adapt(model.backbone, config.train, seed)
    if forecast is not None:
        forecast.begin_model()
    with progress:

        def on_step() -> None:
            progress.step()
            if forecast is not None:
                forecast.step()

        epochs = fit(
            model, training, config.train, seed=seed, device=device, ranks=ranks, on_step=on_step,
            on_epoch=progress.epoch,
        )  # fmt: skip
    merge_adapters(model.backbone)
    return epochs


def _progress(problem: SeedProblem, seed: int, *, rates: int = 1, is_shown: bool) -> EpochProgress:
    train = problem.config.train
    return EpochProgress(
        problem.name_of(seed),
        train.most_epochs,
        problem.metric.name,
        steps=steps_per_epoch(train, len(problem.split.train)),
        rates=rates,
        shown=is_shown,
    )


def _predict(problem: SeedProblem, model: PropertyModel, trained: _Trained, seed: int) -> Float64:
    """Write predictions for every usable row; return them without reference energies, float64 [M, W], else NaN."""
    config, rows = problem.config, problem.rows
    rows_U = np.flatnonzero(rows.usable_M)
    make_sample = problem.make_sample
    if trained.value_RW is None:
        samples = each_conformer_once(problem.reader(rows_U), make_sample, config.train.max_pairs, problem.device)
        found = predict_conformers(model.to(problem.device), samples, problem.scaling, problem.device)
    else:
        found = ConformerStatistics.of(np.arange(len(rows_U)), trained.value_RW)
    value_MW: Float64 = np.full((len(rows.labels_ML), len(rows.outputs.names)), np.nan)
    std_MW = np.full_like(value_MW, np.nan)
    value_MW[rows_U], std_MW[rows_U] = found.mean_RL, found.std_RL
    total_MW = value_MW if rows.reference_ML is None else value_MW + rows.reference_ML
    path = config.folder / f"predictions-seed-{seed}.parquet"
    results.write_predictions(path, rows, problem.split, total_MW, std_MW if config.conformers > 1 else None)
    return value_MW


def _judge(problem: SeedProblem, value_MW: Float64, trained: _Trained, seed: int) -> SeedResult:
    labels_ML, targets, epochs = problem.rows.learnt_ML, problem.rows.targets, trained.epochs
    valid, test = (
        score(problem.metric, labels_ML[part], value_MW[part], targets)
        for part in (problem.split.valid, problem.split.test)
    )
    assert valid.value is not None, "it chose the best epoch"
    has_test = len(problem.split.test) > 0
    if has_test and test.value is None:
        raise RunError(f"the predictions of the test rows have no score: {'; '.join(test.undefined[:3])}")
    return SeedResult(
        seed=seed,
        valid=valid.value,
        test=test.value,
        test_by_target=test.per_target,
        undefined=test.undefined if has_test else (),
        best_epoch=epochs[-1].best,
        losses=tuple(epoch.loss for epoch in epochs),
        valid_scores=tuple(epoch.score for epoch in epochs),
        noise_losses=tuple(epoch.noise_loss for epoch in epochs if epoch.noise_loss is not None),
        fold=problem.fold,
        split_sizes={} if problem.fold is None else problem.split_sizes,
        trivial=() if problem.fold is None else problem.trivial,
        chosen=trained.chosen,
        **_count_violations(problem, value_MW),
    )


class _Violations(TypedDict):
    bounds: dict[str, int]
    violated_bounds: dict[str, int]


def _count_violations(problem: SeedProblem, value_MW: Float64) -> _Violations:
    """Return the number of bounds in each part of the split, and how many of them the predictions violate."""
    bounds, parts = problem.rows.learnt_bounds, problem.split.parts
    if bounds is None:
        return {"bounds": {}, "violated_bounds": {}}
    violated_ML = bounds.violated(value_MW)
    return {
        "bounds": {part: int((bounds.side_ML[row_R] != 0.0).sum()) for part, row_R in parts.items()},
        "violated_bounds": {part: int(violated_ML[row_R].sum()) for part, row_R in parts.items()},
    }
