"""Triton kernels where one branch of the nodes ends and the next one begins: both read and write the same rows.

Rows [R, W] as in row_kernels; the later branch's norm is of what the earlier branch makes.
"""

import triton
import triton.language as tl

from unimol_scale.model.fused.programs.row_kernels import (
    branch_added,
    enter_branch,
    norm_gradient,
    normal_rows,
    of_channels,
    of_rows,
    write_norm,
    write_rows,
)


@triton.jit
def add_branch_and_norm(
    x_ptr, update_ptr, y_ptr, seed_ptr, stream, weight_ptr, bias_ptr, normal_ptr, mean_ptr, rstd_ptr, R, MOLECULE,
    W: tl.constexpr, EPSILON: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write y = x + dropout(update), the layer norm of y, its means and reciprocal deviations."""
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    y = branch_added(
        x_ptr, update_ptr, seed_ptr, stream, row, R, MOLECULE,
        W, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE, BW,
    ).to(y_ptr.dtype.element_ty)  # fmt: skip
    write_rows(y_ptr, y, row, R, W, BW)
    # Of the rounded y, which the backward pass reads.
    write_norm(y.to(tl.float32), weight_ptr, bias_ptr, normal_ptr, mean_ptr, rstd_ptr, row, R, W, EPSILON, BW)


@triton.jit
def leave_and_enter_backward(
    grad_ptr, y_ptr, y_mean_ptr, y_rstd_ptr, y_weight_ptr, residual_ptr, grad_y_ptr,
    x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, grad_update_ptr, normal_ptr,
    partial_ptr, PARTIAL_STEP, seed_ptr, stream, R, MOLECULE,
    W: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Do ``layer_norm_backward`` of the later branch, which began with y, and ``enter_backward`` of the earlier one.

    Partial sums are of weight and bias of the later norm, then of the bias of the earlier branch's last map.
    """
    y_weight, channel = of_channels(y_weight_ptr, W, BW), tl.arange(0, BW)
    weight, bias = of_channels(weight_ptr, W, BW), of_channels(bias_ptr, W, BW)
    weight_sum, bias_sum = tl.zeros((BW,), tl.float32), tl.zeros((BW,), tl.float32)
    update_sum = tl.zeros((BW,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        grad = of_rows(grad_ptr, row, R, W, BW)
        normal, rstd = normal_rows(y_ptr, y_mean_ptr, y_rstd_ptr, row, R, W, BW)
        weight_sum += tl.sum(grad * normal, 0)
        bias_sum += tl.sum(grad, 0)
        grad_y = norm_gradient(grad, normal, rstd, y_weight, W) + of_rows(residual_ptr, row, R, W, BW)
        write_rows(grad_y_ptr, grad_y, row, R, W, BW)
        update_sum += enter_branch(
            grad_y, x_ptr, mean_ptr, rstd_ptr, weight, bias, grad_update_ptr, normal_ptr,
            seed_ptr, stream, row, R, MOLECULE, W, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE, BW,
        )  # fmt: skip
    partial = partial_ptr + tl.program_id(0) * PARTIAL_STEP + channel
    tl.store(partial, weight_sum, mask=channel < W)
    tl.store(partial + W, bias_sum, mask=channel < W)
    tl.store(partial + 2 * W, update_sum, mask=channel < W)
