"""Fits the head of a property model to vectors of a frozen backbone: in closed form, or by AdamW.

Shapes: R rows, N training rows, D atom channels, L targets, W outputs, P penalties.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unimol_scale.downstream.config import FinetuneTrainConfig
from unimol_scale.downstream.finetuning.model.epochs import Epoch, EpochHistory
from unimol_scale.downstream.finetuning.model.head_initialisation import standardise_head
from unimol_scale.downstream.finetuning.model.learnt_outputs import rows_of
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.training import TrainingProblem, own_randomness, validation_score
from unimol_scale.downstream.finetuning.model.weight_updates import WeightUpdates
from unimol_scale.downstream.finetuning.probe.linear_models import (
    LOGISTIC_PENALTIES,
    RIDGE_PENALTIES,
    LinearPath,
    choose,
    fit_logistic,
    fit_ridge,
)
from unimol_scale.errors import RunError
from unimol_scale.store.schema import Float32, Float64

# Factors on train.learning_rate, which suits a pretrained backbone; a new head on fixed vectors tolerates higher rates.
RATE_FACTORS = (1.0, 3.0, 10.0, 30.0)


@dataclass(frozen=True, kw_only=True)
class FittedProbe:
    """How a head was fitted.

    Attributes:
        epochs: the epochs of the training; a closed form has one.
        chosen: "penalty" or "learning_rate" → the value that was best on the validation rows.
    """

    epochs: list[Epoch]
    chosen: dict[str, float]


def fit_probe(
    model: PropertyModel,
    problem: TrainingProblem,
    config: FinetuneTrainConfig,
    normed_ND: Float32,
    normed_VD: Float32,
    *,
    seed: int,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> FittedProbe:
    """Fit the head of a model in place; the model is then in evaluation mode, on the CPU.

    Args:
        model: untrained model, on the CPU.
        problem: labels of the training and validation rows, the loss and the metric.
        config: settings of the training.
        normed_ND: output of ``model.vectors`` for the training rows.
        normed_VD: output of ``model.vectors`` for the V validation rows.
        seed: seed of the order of the rows and of dropout.
        on_epoch: called after every epoch of every attempt.

    Raises:
        RunError: a loss is not finite, or the validation rows have no defined score.
    """
    base_W = problem.scaling.base_outputs(problem.train.labels_RL, problem.weight_RL)
    standardise_head(model, torch.from_numpy(normed_ND), base_W)
    train_ND, valid_VD = (_standardised(model, vectors) for vectors in (normed_ND, normed_VD))
    model.requires_grad_(False)
    if config.probe == "linear":
        return _fit_linear(model.eval(), problem, train_ND, valid_VD, on_epoch)
    return _fit_mlp(model, problem, config, (train_ND, valid_VD), seed, on_epoch)


def head_values(model: PropertyModel, problem: TrainingProblem, normed_RD: Float32) -> Float64:
    """Return a fitted model's predictions, float64 [R, W], from the ``model.vectors`` of the untrained model."""
    return _values(model.eval(), problem, _standardised(model, normed_RD))


def _standardised(model: PropertyModel, normed_RD: Float32) -> Tensor:
    return torch.from_numpy(normed_RD) * model.norm.weight.detach() + model.norm.bias.detach()


@torch.no_grad()
def _values(model: PropertyModel, problem: TrainingProblem, vector_RD: Tensor) -> Float64:
    values: Float64 = problem.scaling.restore(model.from_vectors(vector_RD)).numpy()
    return values


def _fit_linear(
    model: PropertyModel,
    problem: TrainingProblem,
    train_ND: Tensor,
    valid_VD: Tensor,
    on_epoch: Callable[[Epoch], None],
) -> FittedProbe:
    """Fit the only layer of the head for every penalty, and keep the one that is best on the validation rows."""
    paths, penalties = _paths(problem, train_ND.double().numpy())
    weight_PWD = torch.from_numpy(np.concatenate([path.weight_PKD for path in paths], axis=1)).float()
    bias_PW = torch.from_numpy(np.concatenate([path.bias_PK for path in paths], axis=1)).float()

    def take(at: int) -> None:
        with torch.no_grad():
            model.out.weight.copy_(weight_PWD[at])
            model.out.bias.copy_(bias_PW[at])

    comparable, predictions = problem.scaling.comparable, []
    for at in range(len(penalties)):
        take(at)
        predictions.append(comparable(_values(model, problem, valid_VD)))
    best = choose(problem.metric, comparable(problem.valid.labels_RL), predictions)
    take(best)
    everything = torch.arange(len(train_ND))
    with torch.no_grad():
        loss = _mean_loss(model, problem, train_ND, everything)
    value = validation_score(problem, _values(model, problem, valid_VD))
    epoch = Epoch(epoch=1, loss=float(loss), score=value, best=1)
    on_epoch(epoch)
    return FittedProbe(epochs=[epoch], chosen={"penalty": penalties[best]})


def _paths(problem: TrainingProblem, train_ND: Float64) -> tuple[list[LinearPath], tuple[float, ...]]:
    """Return the linear models of each target, and their penalties."""
    labels_NL, weight_NL, scaling = problem.train.labels_RL, problem.weight_RL, problem.scaling
    weights = [None if weight_NL is None else weight_NL[:, at] for at in range(labels_NL.shape[1])]
    if scaling.task == "regression":
        scaled_NL = scaling.normalise(torch.from_numpy(labels_NL)).double().numpy()
        pairs = zip(scaled_NL.T, weights, strict=True)
        return [fit_ridge(train_ND, label_N, RIDGE_PENALTIES, weight_N) for label_N, weight_N in pairs], RIDGE_PENALTIES
    pairs = zip(labels_NL.T, weights, strict=True)
    K = scaling.num_classes
    return [
        fit_logistic(train_ND, label_N, LOGISTIC_PENALTIES, weight_N, num_classes=K) for label_N, weight_N in pairs
    ], LOGISTIC_PENALTIES


def _fit_mlp(
    model: PropertyModel,
    problem: TrainingProblem,
    config: FinetuneTrainConfig,
    vectors: tuple[Tensor, Tensor],
    seed: int,
    on_epoch: Callable[[Epoch], None],
) -> FittedProbe:
    """Train the head at several learning rates, and keep the one that is best on the validation rows."""
    head = [*model.dense.parameters(), *model.out.parameters()]
    for parameter in head:
        parameter.requires_grad_(True)
    first = [parameter.detach().clone() for parameter in head]
    found: list[tuple[EpochHistory, list[Tensor]]] = []
    rates = [factor * config.peak_rate for factor in RATE_FACTORS]
    for rate in rates:
        with torch.no_grad():
            for parameter, value in zip(head, first, strict=True):
                parameter.copy_(value)
        end = config.end_learning_rate * rate / config.peak_rate
        with own_randomness(seed, torch.device("cpu")):
            history = _train(
                model, problem, replace(config, learning_rate=rate, end_learning_rate=end), vectors, on_epoch
            )
        found.append((history, [parameter.detach().clone() for parameter in head]))
    best = 0
    for at, (history, _) in enumerate(found):
        if problem.metric.is_better(history.best_score, found[best][0].best_score):
            best = at
    with torch.no_grad():
        for parameter, value in zip(head, found[best][1], strict=True):
            parameter.copy_(value)
    model.eval()
    return FittedProbe(epochs=found[best][0].epochs, chosen={"learning_rate": rates[best]})


def _train(
    model: PropertyModel,
    problem: TrainingProblem,
    config: FinetuneTrainConfig,
    vectors: tuple[Tensor, Tensor],
    on_epoch: Callable[[Epoch], None],
) -> EpochHistory:
    """Train the parts of the head that are not frozen; afterwards it has the weights of its best epoch."""
    train_ND, valid_VD = vectors
    batch_size = min(config.batch_size, len(train_ND))
    updates = WeightUpdates(model, config, config.most_epochs * -(-len(train_ND) // batch_size))
    history, best = EpochHistory(metric=problem.metric, patience=config.patience), updates.snapshot()
    for _ in range(config.most_epochs):
        model.train()
        losses = []
        for row_B in torch.split(torch.randperm(len(train_ND)), batch_size):
            loss = _mean_loss(model, problem, train_ND, row_B)
            loss.backward()  # type: ignore[no-untyped-call]
            updates.step()
            losses.append(loss.item())
        if not all(map(math.isfinite, losses)):
            raise RunError("the loss is not finite: the training has diverged; lower train.learning_rate")
        with updates.result():
            model.eval()
            value = validation_score(problem, _values(model, problem, valid_VD))
        epoch = history.add(float(np.mean(losses)), value)
        if epoch.best == epoch.epoch:
            best = updates.snapshot()
        on_epoch(epoch)
        if history.should_stop:
            break
    updates.weights.restore_into_model(best)
    return history


def _mean_loss(model: PropertyModel, problem: TrainingProblem, train_ND: Tensor, row_B: Tensor) -> Tensor:
    """Return the loss of some training rows, as a mean over their labels."""
    label_BL = torch.from_numpy(problem.train.labels_RL)[row_B]
    weight_BL, side_BL = rows_of(problem.weight_RL, row_B), rows_of(problem.side_RL, row_B)
    out_BW = model.from_vectors(train_ND[row_B])
    loss = problem.scaling.loss(out_BW, label_BL, problem.loss, weight_BL, side_BL)
    return loss / int((~label_BL.isnan()).sum())
