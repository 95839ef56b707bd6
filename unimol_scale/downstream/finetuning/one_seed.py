"""Fits the model of one seed: training, a prediction for every labelled row, and scores.

A seed that is finished is read from its file. Of a cross-validation, every fold of every repeat has a seed of its own.

Shapes: M rows, L targets, W outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import torch

import unimol_scale.config as strict
from unimol_scale.common.text.json_files import write_json
from unimol_scale.data.input_views import InputView
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.batches import RowReader, SampleMaker, each_conformer_once
from unimol_scale.downstream.data.pretraining_data import PretrainingStore
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.atom_references import FittedReferences
from unimol_scale.downstream.finetuning.cautions import trivial_scores
from unimol_scale.downstream.finetuning.finetuning_folder import read_recorded
from unimol_scale.downstream.finetuning.labelled_rows import Rows
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling
from unimol_scale.downstream.finetuning.model.noisy_nodes import coordinate_head
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig, Member, load_member, save_member
from unimol_scale.downstream.finetuning.model.training import Epoch, TrainingProblem, fit, predict_conformers
from unimol_scale.downstream.finetuning.model.training_progress import EpochProgress
from unimol_scale.downstream.finetuning.results import SeedResult
from unimol_scale.downstream.labels.label_weights import loss_weights
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import score
from unimol_scale.errors import RunError
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.model.presets import ModelConfig
from unimol_scale.store.schema import Float32, Float64, Int64


@dataclass(frozen=True, kw_only=True)
class StartingModel:
    """The model that the fine-tuning of every seed starts from.

    Attributes:
        model: its dimensions.
        backbone: pretrained weights; None starts from random ones.
        coordinate_head: the pretrained one; None: the model has none, or the weights are random.
        pretrained_on: the store of its pretraining, or why that is not known; None for random weights.
    """

    model: ModelConfig
    backbone: TwoTrackBackbone | None
    coordinate_head: CoordinateHead | None
    pretrained_on: PretrainingStore | None


@dataclass(frozen=True, kw_only=True)
class FinishedSeed:
    """Content of ``seed-N.json``, which is written last and marks the seed as finished.

    Attributes:
        member: its model.
        outcome: its scores.
    """

    member: Member
    outcome: SeedResult


@dataclass(frozen=True, kw_only=True)
class SeedProblem:
    """What every seed of one split is fitted to.

    Attributes:
        config: of the fine-tuning.
        rows: the data.
        split: of the rows.
        start: the model that training starts from.
        view: how molecules are shown to it.
        metric: of validation and test.
        device: to compute on.
        references: target → energies of the elements, fitted to the training rows and taken off the labels of all.
        fold: whose split it is; None for a single split.
    """

    config: FinetuneConfig
    rows: Rows
    split: DataSplit
    start: StartingModel
    view: InputView
    metric: Metric
    device: torch.device
    references: Mapping[str, FittedReferences] = field(default_factory=dict)
    fold: Fold | None = None

    @property
    def split_sizes(self) -> dict[str, int]:
        """Rows of train, valid and test that are used, and of calibration, if any are set aside."""
        return {name: len(row_R) for name, row_R in self.split.parts.items()}

    @property
    def scaling(self) -> Scaling:
        """Of the training labels."""
        rows, transforms = self.rows, self.config.transforms_of(self.rows.targets)
        each = tuple(transforms.get(target, "none") for target in rows.targets) if transforms else ()
        return Scaling.of(rows.learnt_ML[self.split.train], rows.task, rows.outputs.num_classes, each)

    @property
    def weight_RL(self) -> Float64 | None:
        """What the loss of each training label is multiplied by; None: all weigh the same."""
        rows, train = self.rows, self.split.train
        row_weight_R = None if rows.weight_M is None else rows.weight_M[train]
        return loss_weights(rows.learnt_ML[train], row_weight_R, self.config.class_weights)

    @property
    def trivial(self) -> tuple[float | None, ...]:
        """Score of predicting the mean of the training labels, or the shares of their classes, [L]."""
        labels_ML = self.rows.learnt_ML
        train_RL, test_RL = labels_ML[self.split.train], labels_ML[self.split.test]
        return trivial_scores(self.metric, train_RL, test_RL, self.rows.outputs.num_classes)

    def reader(self, row_R: Int64, *, bounded: bool = False) -> RowReader:
        """Return a reader of some rows; ``bounded``: labels that are censored are their bounds instead of NaN."""
        rows = self.rows
        labels_ML = rows.learnt_ML
        if bounded and (bounds := rows.learnt_bounds) is not None:
            labels_ML = np.where(np.isnan(labels_ML), bounds.bound_ML, labels_ML)
        return RowReader(
            rows.molecules.split,
            rows.molecules.position_M[row_R],
            labels_ML[row_R],
            drop_hydrogens=rows.leaves_out_hydrogens,
            conformers=self.config.conformers,
        )


def fit_seed(problem: SeedProblem, seed: int) -> FinishedSeed:
    """Fit the model of a seed and write it with its predictions, or read what an earlier call has written.

    Raises:
        ConfigError: its file is damaged.
        RunError: training failed, or the test rows cannot be judged.
    """
    done = problem.config.folder / f"seed-{seed}.json"
    if done.is_file():
        tree = read_recorded(done, "remove it and fine-tune again: only that seed is trained")
        return strict.build(FinishedSeed, tree, strict.Origin(name=str(done), recorded=True))
    scaling = problem.scaling
    model = _new_model(problem, seed)
    epochs = _train(problem, model, scaling, seed)
    value_MW = _predict(problem, model, scaling, seed)
    file = f"seed-{seed}.safetensors"
    member = Member(
        file=file,
        sha256=save_member(problem.config.folder, file, model.cpu()),
        mean_L=scaling.mean_L,
        std_L=scaling.std_L,
        references={} if problem.fold is None else {name: one.energies for name, one in problem.references.items()},
    )
    finished = FinishedSeed(member=member, outcome=_judge(problem, value_MW, epochs, seed))
    write_json(done, strict.to_tree(finished))
    return finished


def seed_vectors(problem: SeedProblem, saved: FinetunedConfig, row_R: Int64) -> Float32:
    """Return what the head of the first model sees of some rows, float32 [R, D], means over conformers.

    Raises:
        CheckpointError: its file is damaged.
        RunError: memory is full.
    """
    member = saved.members[0]
    model = load_member(problem.config.folder, saved, member).to(problem.device)
    make_sample = SampleMaker(view=problem.view, model=problem.start.model)
    samples = each_conformer_once(problem.reader(row_R), make_sample, problem.config.train.max_pairs, problem.device)
    scaling = saved.scaling_of(member)
    vector_RD = predict_conformers(model, samples, scaling, problem.device, with_vectors=True).vector_RD
    assert vector_RD is not None, "asked for"
    return vector_RD


def _new_model(problem: SeedProblem, seed: int) -> PropertyModel:
    config, start = problem.config, problem.start
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PropertyModel(
            start.model,
            problem.rows.outputs.num_logits,
            config.pooling,
            config.train.dropout,
            config.head,
            ordered=problem.rows.task == "ordinal",
        )
    if start.backbone is not None:
        model.backbone.load_state_dict(start.backbone.state_dict())
    if config.train.predicts_noise:
        model.coordinate_head = coordinate_head(start.model, start.coordinate_head, seed)
    return model


def _train(problem: SeedProblem, model: PropertyModel, scaling: Scaling, seed: int) -> list[Epoch]:
    config = problem.config
    bounds, train = problem.rows.learnt_bounds, problem.split.train
    training = TrainingProblem(
        train=problem.reader(train, bounded=True),
        valid=problem.reader(problem.split.valid),
        make_sample=SampleMaker(view=problem.view, model=problem.start.model),
        scaling=scaling,
        loss=config.loss or "mse",
        metric=problem.metric,
        weight_RL=problem.weight_RL,
        side_RL=None if bounds is None else bounds.side_ML[train],
    )
    title = f"{problem.rows.name}, {f'seed {seed}' if problem.fold is None else problem.fold}"
    with EpochProgress(title, config.train.epochs, problem.metric.name) as progress:
        return fit(model, training, config.train, seed=seed, device=problem.device, on_epoch=progress.epoch)


def _predict(problem: SeedProblem, model: PropertyModel, scaling: Scaling, seed: int) -> Float64:
    """Write predictions for every usable row; return them as learnt, float64 [M, W], NaN for the other rows."""
    config, rows = problem.config, problem.rows
    rows_U = np.flatnonzero(rows.usable_M)
    make_sample = SampleMaker(view=problem.view, model=problem.start.model)
    samples = each_conformer_once(problem.reader(rows_U), make_sample, config.train.max_pairs, problem.device)
    found = predict_conformers(model, samples, scaling, problem.device)
    value_MW: Float64 = np.full((len(rows.labels_ML), len(rows.outputs.names)), np.nan)
    std_MW = np.full_like(value_MW, np.nan)
    value_MW[rows_U], std_MW[rows_U] = found.mean_RL, found.std_RL
    total_MW = value_MW if rows.reference_ML is None else value_MW + rows.reference_ML
    path = config.folder / f"predictions-seed-{seed}.parquet"
    results.write_predictions(path, rows, problem.split, total_MW, std_MW if config.conformers > 1 else None)
    return value_MW


def _judge(problem: SeedProblem, value_MW: Float64, epochs: Sequence[Epoch], seed: int) -> SeedResult:
    labels_ML, targets = problem.rows.learnt_ML, problem.rows.targets
    valid, test = (
        score(problem.metric, labels_ML[part], value_MW[part], targets)
        for part in (problem.split.valid, problem.split.test)
    )
    assert valid.value is not None, "it chose the best epoch"
    has_test = len(problem.split.test) > 0
    if has_test and test.value is None:
        raise RunError(f"the predictions of the test rows cannot be judged: {'; '.join(test.undefined[:3])}")
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
        **_count_violations(problem, value_MW),
    )


class _Violations(TypedDict):
    bounds: dict[str, int]
    violated_bounds: dict[str, int]


def _count_violations(problem: SeedProblem, value_MW: Float64) -> _Violations:
    """Return how many bounds each part has, and how many of them the predictions violate."""
    bounds, parts = problem.rows.learnt_bounds, problem.split.parts
    if bounds is None:
        return {"bounds": {}, "violated_bounds": {}}
    violated_ML = bounds.violated(value_MW)
    return {
        "bounds": {part: int((bounds.side_ML[row_R] != 0.0).sum()) for part, row_R in parts.items()},
        "violated_bounds": {part: int(violated_ML[row_R].sum()) for part, row_R in parts.items()},
    }
