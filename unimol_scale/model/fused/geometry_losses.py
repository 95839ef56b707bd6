"""The losses of predicted coordinates as one differentiable operation: values and slopes are found together."""

from typing import Any

import torch
from torch import Tensor

from unimol_scale.model.fused.launching import MAX_NODES, are_on, block, launch

_BLOCK = 1024


def suits_coordinates(predicted_BA3: Tensor) -> bool:
    """Return whether the kernels compute the losses of these: on a GPU, fp32, molecules of a usual size."""
    return are_on(predicted_BA3) and predicted_BA3.dtype == torch.float32 and predicted_BA3.shape[1] <= MAX_NODES


class FusedGeometryLosses(torch.autograd.Function):
    """``objectives.denoise.coordinate_loss`` and ``distance_loss`` of predicted [B, A, 3] and clean coordinates."""

    @staticmethod
    def forward(ctx: Any, predicted_BA3: Tensor, clean_BA3: Tensor, valid_BA: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ANN401, D102
        (B, A, _), predicted_BA3 = predicted_BA3.shape, predicted_BA3.contiguous()
        losses_B2, slopes = predicted_BA3.new_empty(B, 2), predicted_BA3.new_empty(2, B, A, 3)
        tensors = (predicted_BA3, clean_BA3.contiguous(), valid_BA.view(torch.uint8), losses_B2, slopes[0], slopes[1])
        launch("geometry_kernels.geometry_losses", (B,), *tensors, A, BN=block(A))
        ctx.save_for_backward(slopes)
        coordinate, distance = losses_B2.sum(0).unbind()
        return coordinate, distance

    @staticmethod
    def backward(ctx: Any, grad_coordinate: Tensor, grad_distance: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401, D102
        (slopes,) = ctx.saved_tensors
        grad_BA3 = torch.empty_like(slopes[0])
        tensors, count = (slopes[0], slopes[1], grad_coordinate, grad_distance, grad_BA3), grad_BA3.numel()
        launch("geometry_kernels.weigh_slopes", (-(-count // _BLOCK),), *tensors, count, BLOCK=_BLOCK)
        return grad_BA3, None, None
