"""Trains one property model: normalised targets, masked losses, early stopping on the validation score.

Shapes: R rows, B in a micro-batch, L targets, W outputs.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.compute import concurrency_of, explain_full_memory, limited_threads, map_concurrently
from unimol_scale.downstream.config import FinetuneTrainConfig, LossName
from unimol_scale.downstream.data.batches import (
    LabelledSample,
    RowReader,
    SampleMaker,
    repeated_samples,
    steps_per_epoch,
    training_batches,
)
from unimol_scale.downstream.finetuning.model.conformer_statistics import ConformerStatistics
from unimol_scale.downstream.finetuning.model.epochs import Epoch, EpochHistory
from unimol_scale.downstream.finetuning.model.head_initialisation import initialise_head
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling, rows_of
from unimol_scale.downstream.finetuning.model.noisy_nodes import NoisyNodes
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.weight_updates import WeightUpdates
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import score
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.engine.side_by_side import SideBySide
from unimol_scale.errors import RunError
from unimol_scale.store.schema import Float64

_SEED_STRIDE = 1_000_003  # difference between the seeds from which ranks draw dropout


@dataclass(frozen=True, kw_only=True)
class StepLoss:
    """Losses of one step.

    Attributes:
        label: weighted mean loss of all labels that are present.
        noise: mean unweighted loss of predicting the noise, per molecule; None if noise is not predicted.
    """

    label: float
    noise: float | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingProblem:
    """The data and the goal of a training.

    Attributes:
        train: training rows.
        valid: validation rows, whose score determines the best epoch.
        make_sample: turns rows into samples.
        scaling: scaling of the training labels.
        loss: loss of a regression; classifiers use the cross-entropy.
        metric: metric of the validation rows.
        weight_RL: factors on the loss of each training label, with a mean of 1; None: no factors.
        side_RL: 1 if the measurement lies above the label, which is a bound, -1 if below, 0 for values; None if there
            are no bounds.
    """

    train: RowReader
    valid: RowReader
    make_sample: SampleMaker
    scaling: Scaling
    loss: LossName
    metric: Metric
    weight_RL: Float64 | None = None
    side_RL: Float64 | None = None


@explain_full_memory
def fit(
    model: PropertyModel,
    problem: TrainingProblem,
    config: FinetuneTrainConfig,
    *,
    seed: int,
    device: torch.device,
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> list[Epoch]:
    """Train a model in place. At the end it has the weights of its best epoch, in fp32, and is in evaluation mode.

    Args:
        model: the model on the CPU; it is moved to the device, and its head is initialised (``head_initialisation``).
            ``train.noise_weight`` needs a coordinate head, which is removed at the end.
        problem: the data and the goal.
        config: settings of the training.
        seed: of the order of the rows, of dropout and of the noise.
        device: to compute on.
        on_step: called after every step.
        on_epoch: called after every epoch.
        ranks: ranks that share the micro-batches of every step, each on its own device. All of them call this function
            and end with the same weights, which equal those of a single process except for rounding and the draws of
            dropout. Every rank predicts the validation rows. None: this process works alone.

    Returns:
        The results of the epochs, in order.

    Raises:
        RunError: a loss is not finite, memory is full, or the validation rows have no defined score.
    """
    model.to(device)
    with own_randomness(seed, device), limited_threads(model, device):  # loaders use random numbers too
        base_W = problem.scaling.base_outputs(problem.train.labels_RL, problem.weight_RL)
        initialise_head(model, problem.train, problem.make_sample, base_W, config.max_pairs, device)
    if ranks is not None:
        ranks.copy_from_main(parameter.data for parameter in model.parameters())
    epoch_steps = steps_per_epoch(config, len(problem.train))
    total = config.most_epochs * epoch_steps
    updates, noisy_nodes = WeightUpdates(model, config, total), NoisyNodes.of(config)
    make_noised = replace(problem.make_sample, noise_std=config.noise_std)  # in training only
    at_once = 1 if ranks is not None else _micro_batches_at_once(model, config, device)
    steps = training_batches(problem.train, make_noised, config, seed, device, at_once, ranks).steps(0, total)
    history = EpochHistory(metric=problem.metric, patience=config.patience)
    best_values: dict[str, Tensor] = {}
    own_seed = seed if ranks is None else seed + _SEED_STRIDE * ranks.rank
    with own_randomness(own_seed, device), _threads_for(model, at_once) as side_by_side:
        valid_samples = repeated_samples(problem.valid, problem.make_sample, config.max_pairs, device)
        for _ in range(config.most_epochs):
            model.train()
            losses = []
            with limited_threads(model, device):
                for _ in range(epoch_steps):
                    add_to_weights = updates.weights.add_gradients
                    samples = next(steps)
                    losses.append(
                        add_gradient(model, samples, problem, device, add_to_weights, noisy_nodes, side_by_side, ranks)
                    )
                    if ranks is not None:
                        updates.weights.add_up(ranks)
                    updates.step()
                    on_step()
            with updates.result():
                value = validation_score(problem, predict(model, valid_samples, problem.scaling, device))
            if ranks is not None:  # all ranks use the same score, so that they stop at the same epoch
                value = ranks.told_by_main(value)
            epoch = history.add(*_means(losses, value))
            if epoch.best == epoch.epoch:
                best_values = updates.snapshot()
            on_epoch(epoch)
            if history.should_stop:
                break
    steps.close()  # type: ignore[attr-defined]
    updates.weights.restore_into_model(best_values)
    model.coordinate_head = None
    model.eval()
    return history.epochs


def _micro_batches_at_once(model: PropertyModel, config: FinetuneTrainConfig, device: torch.device) -> int:
    """Return the number of micro-batches that are computed side by side; 1 means one after another.

    It is 1 for a backbone with dropout, because threads would draw random numbers in varying order, and in bf16,
    because the gradients of micro-batches are added up in fp32 one by one.
    """
    if config.precision != "fp32" or model.backbone.config.has_dropout:
        return 1
    with limited_threads(model, device):
        return min(concurrency_of(device)[0], config.batch_size)


@contextlib.contextmanager
def _threads_for(model: PropertyModel, at_once: int) -> Iterator[SideBySide | None]:
    """Yield an object that computes ``at_once`` micro-batches of a model side by side; None for one after another."""
    if at_once == 1:
        yield None
        return
    with contextlib.closing(SideBySide(model.trained_parameters, at_once)) as side_by_side:
        yield side_by_side


def validation_score(problem: TrainingProblem, prediction_RL: Float64) -> float:
    """Return the metric of the validation rows.

    Raises:
        RunError: the metric is not defined on these rows.
    """
    labels_RL, comparable = problem.valid.labels_RL, problem.scaling.comparable
    value = score(problem.metric, comparable(labels_RL), comparable(prediction_RL)).value
    if value is None:
        raise RunError(f"{problem.metric.name} is not defined on the validation rows; choose another metric or split")
    return value


def _means(losses: Sequence[StepLoss], score: float) -> tuple[float, float, float | None]:
    """Return the mean loss of the labels, the score, and the mean loss of the noise."""
    noise = [loss.noise for loss in losses if loss.noise is not None]
    return float(np.mean([loss.label for loss in losses])), score, float(np.mean(noise)) if noise else None


def predict(
    model: PropertyModel,
    samples: Iterable[LabelledSample],
    scaling: Scaling,
    device: torch.device,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Float64:
    """Return predictions [R, W] in the order of the rows, averaged over the conformers of each row.

    They are in the table's units, or probabilities; see ``predict_conformers``.
    """
    return predict_conformers(model, samples, scaling, device, on_rows).mean_RL


@explain_full_memory
def predict_conformers(
    model: PropertyModel,
    samples: Iterable[LabelledSample],
    scaling: Scaling,
    device: torch.device,
    on_rows: Callable[[int], None] = lambda _: None,
    *,
    with_vectors: bool = False,
) -> ConformerStatistics:
    """Return mean and spread over conformers of the predictions, in the table's units, or of probabilities.

    Args:
        model: the model; it is put into evaluation mode.
        samples: samples that contain every conformer of every row once.
        scaling: scaling of the labels with which the model was trained.
        device: device of the model.
        on_rows: called with the number of conformers in each finished micro-batch.
        with_vectors: whether to return the vectors of the molecules as well.

    Raises:
        RunError: a prediction is not a finite number, or memory is full.
    """
    model.eval()

    @torch.no_grad()
    def work(sample: LabelledSample) -> tuple[Tensor, Tensor, Tensor]:
        vector_BD = model.vectors(model.represent(to_device(sample.input, device)))
        kept_BD = vector_BD.cpu() if with_vectors else vector_BD[:0]
        return sample.row_B, scaling.restore(model.from_vectors(vector_BD).cpu()), kept_BD

    rows, values, vectors = [], [], []
    for row_B, value_BL, vector_BD in map_concurrently(work, samples, device):
        rows.append(row_B)
        values.append(value_BL)
        if with_vectors:
            vectors.append(vector_BD)
        on_rows(len(row_B))
    value_CL = torch.cat(values).numpy()
    if wrong := int((~np.isfinite(value_CL)).any(axis=1).sum()):
        raise RunError(f"{wrong:,} of {len(value_CL):,} predictions are not finite; lower train.learning_rate")
    vector_CD = torch.cat(vectors).float().numpy() if with_vectors else None
    return ConformerStatistics.of(torch.cat(rows).numpy(), value_CL, vector_CD)


def add_gradient(
    model: PropertyModel,
    samples: Sequence[LabelledSample],
    problem: TrainingProblem,
    device: torch.device,
    on_gradient: Callable[[], None] = lambda: None,
    noisy_nodes: NoisyNodes | None = None,
    side_by_side: SideBySide | None = None,
    ranks: Ranks | None = None,
) -> StepLoss:
    """Compute the gradient of one batch, and return its losses.

    Args:
        model: the model, on the device.
        samples: the micro-batches of the batch.
        problem: the goal of the training.
        device: device that computes.
        on_gradient: called after each micro-batch, or once if they are computed side by side.
        noisy_nodes: the loss of predicting the noise of the samples with the model's coordinate head; None: there is no
            such loss.
        side_by_side: computes the micro-batches side by side, for all trained parameters of the model, which must not
            have gradients yet. The draws of the head's dropout then depend on how the batch is divided. None: one after
            another.
        ranks: ranks that compute the other micro-batches of the batch. The returned losses are those of the whole
            batch, but the gradients of other ranks are not added. None: there are no other ranks.

    Raises:
        RunError: the loss is not finite.
    """
    count = int(sum((~sample.label_BL.isnan()).sum() for sample in samples))
    molecules = sum(len(sample.row_B) for sample in samples)
    if ranks is not None:
        total = ranks.sum({"labels": count, "molecules": molecules})
        count, molecules = int(total["labels"]), int(total["molecules"])
    assert count > 0, "every training row has a label"

    def loss_of(drawn: tuple[LabelledSample, torch.Generator | None]) -> tuple[Tensor, Tensor]:
        sample, generator = drawn
        shown = to_device(sample.input, device)
        representation = model.represent(shown)
        out_BW = model.properties(representation, generator)
        weight_BL, side_BL = rows_of(problem.weight_RL, sample.row_B), rows_of(problem.side_RL, sample.row_B)
        loss = problem.scaling.loss(out_BW, sample.label_BL, problem.loss, weight_BL, side_BL) / count
        terms = [loss.detach()]
        if noisy_nodes is not None:
            assert model.coordinate_head is not None, "the noise is predicted by it"
            noise = noisy_nodes.loss(model.coordinate_head, representation, shown, sample) / molecules
            terms.append(noise.detach())
            loss = loss + noisy_nodes.weight * noise
        return loss, torch.stack(terms)

    losses = []
    if side_by_side is None:
        for sample in samples:
            loss, terms = loss_of((sample, None))
            loss.backward()  # type: ignore[no-untyped-call]
            on_gradient()
            losses.append(terms)
    else:
        seeds = torch.randint(2**62, (len(samples),)).tolist()
        draws = [(sample, torch.Generator().manual_seed(seed)) for sample, seed in zip(samples, seeds, strict=True)]
        losses, gradients = side_by_side(draws, loss_of)
        for parameter, gradient in zip(model.trained_parameters, gradients, strict=True):
            parameter.grad = gradient
        on_gradient()
    sums = [sum(values) for values in zip(*torch.stack(losses).tolist(), strict=True)]  # waits for the device only once
    if ranks is not None:
        sums = list(ranks.sum({str(at): value for at, value in enumerate(sums)}).values())
    label, *noises = sums
    if not all(map(math.isfinite, (label, *noises))):
        raise RunError("the loss is not finite: the training has diverged; lower train.learning_rate")
    return StepLoss(label=label, noise=noises[0] if noises else None)


@contextlib.contextmanager
def own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside the block, and restore its random state after it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
