"""Turns the outputs of a model into losses, and into values in the units of the labels or class probabilities.

Shapes: R rows, B in a micro-batch, L targets, K classes, T thresholds between ordered classes, W outputs: L, or K for a
task with several classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unimol_scale.downstream.config import LossName, Task, Transform
from unimol_scale.downstream.labels.transforms import transform_labels
from unimol_scale.store.schema import Float64


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Scales regression labels to mean 0 and standard deviation 1, and predictions back; computes class probabilities.

    Attributes:
        task: task of the model.
        mean_L: mean of the transformed training labels; 0 for classifiers.
        std_L: standard deviation of the transformed training labels; 1 for classifiers.
        num_classes: number of classes K for a task with a probability per class of a single target; otherwise 0.
        transforms: [L] transforms of the labels before scaling; empty if there are none.
        spread_L: standard deviation of the training labels in their own units; empty for a loaded model.
    """

    task: Task
    mean_L: tuple[float, ...]
    std_L: tuple[float, ...]
    num_classes: int = 0
    transforms: tuple[Transform, ...] = ()
    spread_L: tuple[float, ...] = ()

    @staticmethod
    def of(labels_RL: Float64, task: Task, num_classes: int = 0, transforms: tuple[Transform, ...] = ()) -> "Scaling":
        """Return the scaling for training labels; those of a regression must vary for every target."""
        L = labels_RL.shape[1]
        if task != "regression":
            return Scaling(task=task, mean_L=(0.0,) * L, std_L=(1.0,) * L, num_classes=num_classes)
        spread_L = np.nanstd(labels_RL, axis=0)
        learnt_RL = transform_labels(labels_RL, transforms)
        mean_L, std_L = np.nanmean(learnt_RL, axis=0), np.nanstd(learnt_RL, axis=0)
        assert (std_L > 0.0).all(), "a regression needs labels that vary"
        return Scaling(
            task=task,
            mean_L=tuple(mean_L.tolist()),
            std_L=tuple(std_L.tolist()),
            transforms=transforms,
            spread_L=tuple(spread_L.tolist()),
        )

    def normalise(self, label_BL: Tensor) -> Tensor:
        """Return labels or bounds, transformed and scaled for the loss, float32; NaN stays NaN."""
        mean_L, std_L = label_BL.new_tensor(self.mean_L), label_BL.new_tensor(self.std_L)
        if self.transforms:
            label_BL = torch.from_numpy(transform_labels(label_BL.numpy(), self.transforms))
        return ((label_BL - mean_L) / std_L).float()

    def comparable(self, value_RL: Float64) -> Float64:
        """Return labels or predictions scaled so that errors of several targets can be averaged.

        They are divided by the standard deviation of the training labels, so that the weight of a target does not
        depend on its unit. Single targets and classifiers are not scaled.
        """
        return value_RL / np.array(self.spread_L or self.std_L) if len(self.std_L) > 1 else value_RL

    def restore(self, out_BW: Tensor) -> Tensor:
        """Return outputs of the model as values in the units of the labels, or as probabilities, float64."""
        out_BW = out_BW.double()
        if self.task == "regression":
            value_BL = out_BW * out_BW.new_tensor(self.std_L) + out_BW.new_tensor(self.mean_L)
            return restore_labels(value_BL, self.transforms)
        if self.task == "ordinal":
            return rank_probabilities(out_BW)
        return out_BW.softmax(1) if self.num_classes else out_BW.sigmoid()

    def base_outputs(self, labels_RL: Float64, weight_RL: Float64 | None = None) -> Float64:
        """Return the outputs of the head that encode the mean of the training labels, or the class frequencies.

        Outputs for classes are finite even if a class has no rows: half a row is added to each of two classes, or 1/K
        of a row to each of K classes.

        Args:
            labels_RL: labels of the training rows, NaN for missing ones.
            weight_RL: weights of the labels in the loss; None: equal weights.

        Returns:
            float64 [W]; for ordered classes [T].
        """
        known_RL = ~np.isnan(labels_RL)
        weight_RL = known_RL.astype(np.float64) if weight_RL is None else np.where(known_RL, weight_RL, 0.0)
        if self.task == "regression":
            return np.zeros(labels_RL.shape[1])
        if self.num_classes:
            label_R = labels_RL[known_RL[:, 0], 0].astype(np.int64)
            count_K = np.bincount(label_R, weight_RL[known_RL[:, 0], 0], minlength=self.num_classes)
            share_K: Float64 = (count_K + 1.0 / self.num_classes) / (count_K.sum() + 1.0)
            if self.task == "ordinal":
                below = np.cumsum(share_K)[:-1]
                return np.log((1.0 - below) / below)
            return np.log(share_K)
        ones_L = np.where(known_RL, labels_RL * weight_RL, 0.0).sum(0) + 0.5
        logits_L: Float64 = np.log(ones_L / (weight_RL.sum(0) + 1.0 - ones_L))
        return logits_L

    def loss(
        self,
        out_BW: Tensor,
        label_BL: Tensor,
        name: LossName,
        weight_BL: Tensor | None = None,
        side_BL: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of the losses of all labels that are present.

        Args:
            out_BW: outputs of the model.
            label_BL: untransformed labels on the CPU, NaN for missing ones.
            name: loss of a regression; classifiers use the cross-entropy.
            weight_BL: factors on the loss of each label, on the CPU; None: no factors.
            side_BL: 1 if the measurement lies above the label, which is a bound, -1 if it lies below, 0 for values, on
                the CPU; None: all labels are values.
        """
        if self.task == "ordinal":
            return rank_loss(out_BW, label_BL, weight_BL)
        if self.num_classes:
            return class_loss(out_BW, label_BL, weight_BL)
        wanted_BL = self.normalise(label_BL)
        if side_BL is not None:
            out_BW = hold_to_bounds(out_BW, wanted_BL, side_BL)
        return masked_loss(out_BW, wanted_BL, name if self.task == "regression" else None, weight_BL)


def masked_loss(out_BL: Tensor, wanted_BL: Tensor, name: LossName | None, weight_BL: Tensor | None = None) -> Tensor:
    """Return the sum of the losses of all labels that are present; binary cross-entropy if ``name`` is None.

    Keep labels on the CPU: finding out which are present then does not have to wait for the device of ``out_BL``.
    """
    there_M = (~wanted_BL.isnan()).flatten().nonzero().squeeze(1)
    wanted = wanted_BL.flatten()[there_M].to(out_BL.device, non_blocking=True)
    out = out_BL.flatten().index_select(0, there_M.to(out_BL.device, non_blocking=True))
    losses: dict[LossName | None, Callable[..., Tensor]] = {
        None: F.binary_cross_entropy_with_logits, "mse": F.mse_loss, "mae": F.l1_loss, "huber": F.smooth_l1_loss,
    }  # fmt: skip
    loss = losses[name]
    if weight_BL is None:
        return loss(out, wanted, reduction="sum")
    weight = weight_BL.flatten()[there_M].to(out.device, out.dtype, non_blocking=True)
    return (loss(out, wanted, reduction="none") * weight).sum()


def hold_to_bounds(out_BL: Tensor, bound_BL: Tensor, side_BL: Tensor) -> Tensor:
    """Return the outputs, replaced by the bound if they are on the allowed side of a censored label, so the loss is 0.

    An output on the wrong side keeps its residual to the bound. These are the bounded losses of chemprop (Heid et al.
    2024, doi:10.1021/acs.jcim.3c01250). For the squared error this is the limit of Tobin's likelihood (1958,
    doi:10.2307/1907382) for outputs whose distance from the bound is large compared with the noise.

    Args:
        out_BL: outputs of the model.
        bound_BL: scaled labels; censored labels are bounds.
        side_BL: 1 if the measurement lies above the bound, -1 if below, 0 for values.
    """
    bound_BL, side_BL = bound_BL.to(out_BL.device), side_BL.to(out_BL.device, out_BL.dtype)
    satisfied_BL = side_BL * (out_BL - bound_BL) > 0.0  # False for NaN
    return torch.where(satisfied_BL, bound_BL, out_BL)


def restore_labels(value_BL: Tensor, transforms: Sequence[Transform]) -> Tensor:
    """Return the inverse of ``transform_labels``."""
    if not transforms:
        return value_BL
    functions: dict[Transform, Callable[[Tensor], Tensor]] = {
        "none": lambda value_B: value_B, "log": torch.exp, "log10": lambda value_B: torch.pow(10.0, value_B)
    }  # fmt: skip
    each = [functions[name](value_B) for name, value_B in zip(transforms, value_BL.T, strict=True)]
    return torch.stack(each, dim=1)


def rank_probabilities(out_BT: Tensor) -> Tensor:
    """Return the probabilities [B, K] of ordered classes, given the K − 1 logits of being above each threshold."""
    above_BT = out_BT.sigmoid()
    ends = above_BT.new_ones(len(above_BT), 1), above_BT.new_zeros(len(above_BT), 1)
    above = torch.cat([ends[0], above_BT, ends[1]], dim=1)
    return above[:, :-1] - above[:, 1:]  # not negative, since the head sorts its thresholds


def rank_loss(out_BT: Tensor, label_BL: Tensor, weight_BL: Tensor | None = None) -> Tensor:
    """Return the sum over rows of CORAL's loss (Cao, Mirjalili and Raschka 2020, arXiv 1901.07884, equation 4).

    It is the sum over the K − 1 thresholds of the binary cross-entropy of "the class is above the threshold".

    Args:
        out_BT: logits of being above each threshold.
        label_BL: class indices from 0 of the single target, NaN for missing ones; on the CPU, as in ``masked_loss``.
        weight_BL: factors on the losses; None: no factors.
    """
    thresholds_T = torch.arange(out_BT.shape[1], dtype=label_BL.dtype)
    above_BT = torch.where(label_BL.isnan(), label_BL, (label_BL > thresholds_T).to(label_BL.dtype)).float()
    return masked_loss(out_BT, above_BT, None, None if weight_BL is None else weight_BL.expand(above_BT.shape))


def class_loss(out_BK: Tensor, label_BL: Tensor, weight_BL: Tensor | None = None) -> Tensor:
    """Return the sum of the softmax cross-entropies of the rows with a label.

    Args:
        out_BK: logits of the classes.
        label_BL: class indices from 0 of the single target, NaN for missing ones; on the CPU, as in ``masked_loss``.
        weight_BL: factors on the losses; None: no factors.
    """
    there_M = (~label_BL[:, 0].isnan()).nonzero().squeeze(1)
    wanted = label_BL[there_M, 0].long().to(out_BK.device, non_blocking=True)
    out = out_BK.index_select(0, there_M.to(out_BK.device, non_blocking=True))
    if weight_BL is None:
        return F.cross_entropy(out, wanted, reduction="sum")
    weight = weight_BL[there_M, 0].to(out.device, out.dtype, non_blocking=True)
    return (F.cross_entropy(out, wanted, reduction="none") * weight).sum()


def rows_of(value_RL: Float64 | None, row_B: Tensor) -> Tensor | None:
    """Return the values of some rows, [B, L]; None if ``value_RL`` is None."""
    return None if value_RL is None else torch.from_numpy(value_RL[row_B.numpy()])
