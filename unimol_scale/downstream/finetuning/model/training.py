"""Fits one property model: normalised targets, masked losses, early stopping on the validation score.

Shapes: R rows, B in a micro-batch, L targets.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimol_scale.data.transfer import to_device
from unimol_scale.downstream.compute import threads_of, within_memory
from unimol_scale.downstream.config import FitConfig, LossName, Task
from unimol_scale.downstream.data.batches import LabelledSample, Labelling, RowReader, once, shuffled
from unimol_scale.downstream.embedding.concurrent_batches import side_by_side
from unimol_scale.downstream.finetuning.metrics import Metric, score
from unimol_scale.downstream.finetuning.model.head_initialisation import start_head
from unimol_scale.downstream.finetuning.model.master_weights import MasterWeights
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.errors import RunError
from unimol_scale.store.schema import Float64

_BETAS = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Maps labels of a regression to mean 0 and spread 1, and predictions back; classifiers give probabilities.

    Attributes:
        task: of the model.
        mean_L: of the training labels; 0 for classifiers.
        std_L: their standard deviation; 1 for classifiers.
    """

    task: Task
    mean_L: tuple[float, ...]
    std_L: tuple[float, ...]

    @staticmethod
    def of(labels_RL: Float64, task: Task) -> "Scaling":
        """Return the scaling of training labels, which of a regression are not all equal for any target."""
        L = labels_RL.shape[1]
        if task != "regression":
            return Scaling(task=task, mean_L=(0.0,) * L, std_L=(1.0,) * L)
        mean_L, std_L = np.nanmean(labels_RL, axis=0), np.nanstd(labels_RL, axis=0)
        assert (std_L > 0.0).all(), "nothing can be learnt of labels that are all equal"
        return Scaling(task=task, mean_L=tuple(mean_L.tolist()), std_L=tuple(std_L.tolist()))

    def normalise(self, label_BL: Tensor) -> Tensor:
        """Return labels as the model learns them, fp32; NaN stays."""
        mean_L, std_L = label_BL.new_tensor(self.mean_L), label_BL.new_tensor(self.std_L)
        return ((label_BL - mean_L) / std_L).float()

    def comparable(self, value_RL: Float64) -> Float64:
        """Return labels or predictions such that errors of several targets can be averaged.

        In spreads of the training labels, so that no target drowns the others because of its unit. A single target, and
        classifiers, are left as they are.
        """
        return value_RL / np.array(self.std_L) if len(self.std_L) > 1 else value_RL

    def restore(self, out_BL: Tensor) -> Tensor:
        """Return the model's output as values in the table's units, or as probabilities; fp64."""
        if self.task != "regression":
            return out_BL.double().sigmoid()
        out_BL = out_BL.double()
        return out_BL * out_BL.new_tensor(self.std_L) + out_BL.new_tensor(self.mean_L)


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        epoch: from 1.
        loss: mean training loss of its steps.
        score: of the validation rows, by the metric; with several targets of a regression, in spreads of each.
        best: the best epoch so far.
    """

    epoch: int
    loss: float
    score: float
    best: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be learnt.

    Attributes:
        train: rows to learn from.
        valid: rows that choose the epoch.
        labelling: how rows become samples.
        scaling: of the training labels.
        loss: of a regression.
        metric: that chooses the epoch.
    """

    train: RowReader
    valid: RowReader
    labelling: Labelling
    scaling: Scaling
    loss: LossName
    metric: Metric


@within_memory
def fit(
    model: PropertyModel,
    problem: Problem,
    config: FitConfig,
    *,
    seed: int,
    device: torch.device,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> list[Epoch]:
    """Fit a model in place; it ends with the weights of its best epoch, in fp32 and in evaluation mode.

    Args:
        model: on the CPU; it is moved to the device, and its head starts at the trivial predictor.
        problem: what is to be learnt.
        config: how.
        seed: of order and dropout.
        device: to compute on.
        on_epoch: is told of every epoch.

    Raises:
        RunError: a loss is not finite, memory is full, or the validation rows have no defined score.
    """
    model.to(device)
    with _own_randomness(seed, device), threads_of(model, device):  # loaders take some randomness
        start_head(model, problem.train, problem.labelling, problem.scaling.task, config.max_pairs, device)
    steps_per_epoch = -(-len(problem.train) // config.batch_size)
    total = config.epochs * steps_per_epoch
    weights = MasterWeights(model, config.precision)
    groups = parameter_groups(weights.named, len(model.backbone.layers), config)
    # Fused: the loop over the parameters of a 2M model takes 18 ms a step on a CPU, this 3 ms [measured].
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=_BETAS, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, total, config.warm_up))
    steps = shuffled(problem.train, problem.labelling, config, seed, device).steps(0, total)
    epochs: list[Epoch] = []
    best_values: dict[str, Tensor] = {}
    with _own_randomness(seed, device):
        valid_samples = list(once(problem.valid, problem.labelling, config.max_pairs, device))
        for epoch in range(1, config.epochs + 1):
            model.train()
            losses = []
            with threads_of(model, device):
                for _ in range(steps_per_epoch):
                    losses.append(add_gradient(model, next(steps), problem, device, weights.take_gradients))
                    nn.utils.clip_grad_norm_(weights.named.values(), config.gradient_clip)
                    optimizer.step()
                    weights.give_values()
                    schedule.step()
                    optimizer.zero_grad(set_to_none=True)
            prediction_RL = predict(model, valid_samples, problem.scaling, device)
            value = score(
                problem.metric,
                problem.scaling.comparable(problem.valid.labels_RL),
                problem.scaling.comparable(prediction_RL),
            ).value
            if value is None:
                raise RunError(
                    f"{problem.metric.name} is not defined on the validation rows; choose another metric or split"
                )
            better = not epochs or problem.metric.is_better(value, epochs[epochs[-1].best - 1].score)
            if better:
                best_values = weights.values()
            best = epoch if better else epochs[-1].best
            epochs.append(Epoch(epoch=epoch, loss=float(np.mean(losses)), score=value, best=best))
            on_epoch(epochs[-1])
            if epoch - best >= config.patience:
                break
    steps.close()  # type: ignore[attr-defined]
    weights.finish(best_values)
    model.eval()
    return epochs


@within_memory
def predict(
    model: PropertyModel,
    samples: Iterable[LabelledSample],
    scaling: Scaling,
    device: torch.device,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Float64:
    """Return predictions [R, L] in the order of the rows: in the table's units, or probabilities.

    Args:
        model: is put into evaluation mode.
        samples: hold every row once.
        scaling: of the labels that the model learnt.
        device: that the model is on.
        on_rows: is told how many more rows are done.

    Raises:
        RunError: one is not a finite number, or memory is full.
    """
    model.eval()

    @torch.no_grad()
    def work(sample: LabelledSample) -> tuple[Tensor, Tensor]:
        return sample.row_B, scaling.restore(model(to_device(sample.input, device)).cpu())

    rows, values = [], []
    for row_B, value_BL in side_by_side(work, samples, device):
        rows.append(row_B)
        values.append(value_BL)
        on_rows(len(row_B))
    value_RL = torch.cat(values).numpy()
    if wrong := int((~np.isfinite(value_RL)).any(axis=1).sum()):
        raise RunError(f"{wrong:,} of {len(value_RL):,} predictions are not finite; lower train.learning_rate")
    ordered_RL: Float64 = np.empty_like(value_RL)
    ordered_RL[torch.cat(rows).numpy()] = value_RL
    return ordered_RL


def parameter_groups(named: Mapping[str, nn.Parameter], layers: int, config: FitConfig) -> list[dict[str, object]]:
    """Return the optimizer's groups: the learning rate falls by ``layer_decay`` from a layer to the one below.

    The head and the last layer have the full rate, the encodings the lowest; only matrices decay.

    Args:
        named: parameters by their names in the model.
        layers: of the backbone.
        config: rates and decays.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named.items():
        if name.startswith("backbone.layers."):
            below = layers - 1 - int(name.split(".")[2])
        else:
            below = layers if name.startswith("backbone.") else 0
        groups.setdefault((below, parameter.ndim >= 2), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": config.learning_rate * config.layer_decay**below,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (below, decays), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def add_gradient(
    model: PropertyModel,
    samples: Sequence[LabelledSample],
    problem: Problem,
    device: torch.device,
    on_gradient: Callable[[], None] = lambda: None,
) -> float:
    """Add up the gradient of one global batch; return its loss, the mean over all labels that are there.

    Args:
        model: on the device.
        samples: micro-batches.
        problem: says what is learnt of them.
        device: to compute on.
        on_gradient: is called after each micro-batch.

    Raises:
        RunError: the loss is not finite.
    """
    count = int(sum((~sample.label_BL.isnan()).sum() for sample in samples))
    assert count > 0, "every row that is learnt from has a label"
    losses = []
    for sample in samples:
        wanted_BL = problem.scaling.normalise(sample.label_BL)
        out_BL = model(to_device(sample.input, device))
        loss = masked_loss(out_BL, wanted_BL, problem.loss if problem.scaling.task == "regression" else None) / count
        loss.backward()  # type: ignore[no-untyped-call]
        on_gradient()
        losses.append(loss.detach())
    total = 0.0
    for value in torch.stack(losses).tolist():  # one wait for the device
        total += value
    if not math.isfinite(total):
        raise RunError("the loss is not finite: the training has diverged; lower train.learning_rate")
    return total


def masked_loss(out_BL: Tensor, wanted_BL: Tensor, name: LossName | None) -> Tensor:
    """Return the sum of the losses of all labels that are there; binary cross-entropy where ``name`` is None.

    Labels are best left on the CPU: which of them are there is then known without waiting for the device of ``out_BL``.
    """
    there_M = (~wanted_BL.isnan()).flatten().nonzero().squeeze(1)
    wanted = wanted_BL.flatten()[there_M].to(out_BL.device, non_blocking=True)
    out = out_BL.flatten().index_select(0, there_M.to(out_BL.device, non_blocking=True))
    if name is None:
        return F.binary_cross_entropy_with_logits(out, wanted, reduction="sum")
    losses = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss}
    return losses[name](out, wanted, reduction="sum")


def rate_factor(step: int, total: int, warm_up: float) -> float:
    """Return the share of the peak learning rate at a step: linear up over the warm-up, then linear down to zero."""
    rising = max(1, math.ceil(warm_up * total))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (total - step) / max(total - rising, 1))


@contextlib.contextmanager
def _own_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch inside, and leave it as it was outside."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
