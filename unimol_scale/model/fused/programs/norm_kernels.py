"""Triton kernels of layer norms that linear maps take in: LN(x)·Wᵀ + b is r ∘ (x·W'ᵀ) + b', without LN(x) in memory.

r is the reciprocal deviation of a row, W' = W ∘ w with the mean of every row taken away, so that the mean of x meets
zero, and b' = b + W·v, with w and v weight and bias of the norm. Two maps that share a norm are one, with C = C1 + C2
rows. Everything is computed in fp32; R rows of x have W channels.
"""

import triton
import triton.language as tl


@triton.jit
def statistics(
    x_ptr, mean_ptr, rstd_ptr, R, block, W: tl.constexpr, EPSILON: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr
):
    """Write means and reciprocal deviations of a block of rows."""
    row, channel = block * BR + tl.arange(0, BR), tl.arange(0, BW)
    here = (row < R)[:, None] & (channel < W)[None, :]
    x = tl.load(x_ptr + row[:, None] * W + channel[None, :], mask=here, other=0.0).to(tl.float32)
    mean = tl.sum(x, 1) / W
    centred = tl.where(here, x - mean[:, None], 0.0)
    tl.store(mean_ptr + row, mean, mask=row < R)
    tl.store(rstd_ptr + row, 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / W + EPSILON), mask=row < R)


@triton.jit
def of_two(first_ptr, second_ptr, row, channel, C1, C2, W: tl.constexpr):
    """Return rows of two matrices, one below the other, fp32; zero elsewhere."""
    in_first, in_second = row < C1, (row >= C1) & (row < C1 + C2)
    wide = (channel < W)[None, :]
    first = tl.load(first_ptr + row[:, None] * W + channel[None, :], mask=in_first[:, None] & wide, other=0.0)
    place = (row - C1)[:, None] * W + channel[None, :]
    second = tl.load(second_ptr + place, mask=in_second[:, None] & wide, other=0.0)
    return first.to(tl.float32) + second.to(tl.float32)


@triton.jit
def fold_norm(
    first_ptr, second_ptr, first_bias_ptr, second_bias_ptr, norm_weight_ptr, norm_bias_ptr, folded_ptr, bias_ptr,
    C1, C2, block, W: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write a block of rows of W' and b'."""
    row, channel = block * BR + tl.arange(0, BR), tl.arange(0, BW)
    here = (row < C1 + C2)[:, None] & (channel < W)[None, :]
    weight = of_two(first_ptr, second_ptr, row, channel, C1, C2, W)
    norm_weight = tl.load(norm_weight_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    norm_bias = tl.load(norm_bias_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    scaled = weight * norm_weight[None, :]
    folded = scaled - (tl.sum(scaled, 1) / W)[:, None]
    place = row[:, None] * W + channel[None, :]
    tl.store(folded_ptr + place, folded.to(folded_ptr.dtype.element_ty), mask=here)
    bias = tl.load(first_bias_ptr + row, mask=row < C1, other=0.0).to(tl.float32)
    bias += tl.load(second_bias_ptr + row - C1, mask=(row >= C1) & (row < C1 + C2), other=0.0).to(tl.float32)
    tl.store(bias_ptr + row, bias + tl.sum(weight * norm_bias[None, :], 1), mask=row < C1 + C2)


@triton.jit
def statistics_and_fold(
    x_ptr, mean_ptr, rstd_ptr, R, first_ptr, second_ptr, first_bias_ptr, second_bias_ptr, norm_weight_ptr,
    norm_bias_ptr, folded_ptr, bias_ptr, C1, C2,
    W: tl.constexpr, EPSILON: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write means and reciprocal deviations of the rows of x; the first programs write W' and b'."""
    block, blocks = tl.program_id(0), tl.cdiv(C1 + C2, BR)
    if block < blocks:
        fold_norm(
            first_ptr, second_ptr, first_bias_ptr, second_bias_ptr, norm_weight_ptr, norm_bias_ptr,
            folded_ptr, bias_ptr, C1, C2, block, W, BR, BW,
        )  # fmt: skip
    else:
        statistics(x_ptr, mean_ptr, rstd_ptr, R, block - blocks, W, EPSILON, BR, BW)


@triton.jit
def unfold_norm(
    grad_ptr, first_ptr, second_ptr, norm_weight_ptr, norm_bias_ptr, bias_sum_ptr, mean_sum_ptr,
    grad_first_ptr, grad_second_ptr, grad_norm_weight_ptr, grad_norm_bias_ptr,
    C1, C2, block, W: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write a block of columns of the gradients of both W, w and v from gᵀ·x, with g the gradient of x·W'ᵀ.

    ``bias_sum`` is the gradient of b', ``mean_sum`` the sum of g by the means of the rows of x: it centres gᵀ·x.
    """
    channel = block * BW + tl.arange(0, BW)
    norm_weight = tl.load(norm_weight_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    norm_bias = tl.load(norm_bias_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    weight_sum, bias_sum = tl.zeros((BW,), tl.float32), tl.zeros((BW,), tl.float32)
    for start in range(0, C1 + C2, BR):
        row = start + tl.arange(0, BR)
        here, wide = row < C1 + C2, (channel < W)[None, :]
        weight = of_two(first_ptr, second_ptr, row, channel, C1, C2, W)
        grad = tl.load(grad_ptr + row[:, None] * W + channel[None, :], mask=here[:, None] & wide, other=0.0)
        grad = grad.to(tl.float32) - tl.load(mean_sum_ptr + row, mask=here, other=0.0).to(tl.float32)[:, None]
        of_bias = tl.load(bias_sum_ptr + row, mask=here, other=0.0).to(tl.float32)[:, None]
        weight_sum += tl.sum(weight * grad, 0)
        bias_sum += tl.sum(weight * of_bias, 0)
        found = (grad * norm_weight[None, :] + of_bias * norm_bias[None, :]).to(grad_first_ptr.dtype.element_ty)
        tl.store(grad_first_ptr + row[:, None] * W + channel[None, :], found, mask=(row < C1)[:, None] & wide)
        place = (row - C1)[:, None] * W + channel[None, :]
        tl.store(grad_second_ptr + place, found, mask=(here & (row >= C1))[:, None] & wide)
    tl.store(grad_norm_weight_ptr + channel, weight_sum.to(grad_norm_weight_ptr.dtype.element_ty), mask=channel < W)
    tl.store(grad_norm_bias_ptr + channel, bias_sum.to(grad_norm_bias_ptr.dtype.element_ty), mask=channel < W)


@triton.jit
def folded_backward(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, residual_ptr, grad_x_ptr, R, block,
    W: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write a block of rows of the gradient of x, added to that of a residual, from g·W'."""
    row, channel = block * BR + tl.arange(0, BR), tl.arange(0, BW)
    here = (row < R)[:, None] & (channel < W)[None, :]
    place = row[:, None] * W + channel[None, :]
    mean = tl.load(mean_ptr + row, mask=row < R, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=row < R, other=0.0)
    x = tl.load(x_ptr + place, mask=here, other=0.0).to(tl.float32)
    normal = tl.where(here, (x - mean[:, None]) * rstd[:, None], 0.0)
    grad = tl.load(grad_ptr + place, mask=here, other=0.0).to(tl.float32)
    grad_x = grad - normal * (tl.sum(grad * normal, 1) / W)[:, None]
    grad_x += tl.load(residual_ptr + place, mask=here, other=0.0).to(tl.float32)
    tl.store(grad_x_ptr + place, grad_x.to(grad_x_ptr.dtype.element_ty), mask=here)


@triton.jit
def folded_backward_and_unfold(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, residual_ptr, grad_x_ptr, R,
    grad_folded_ptr, first_ptr, second_ptr, norm_weight_ptr, norm_bias_ptr, bias_sum_ptr, mean_sum_ptr,
    grad_first_ptr, grad_second_ptr, grad_norm_weight_ptr, grad_norm_bias_ptr, C1, C2,
    W: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr, FOLD_ROWS: tl.constexpr, FOLD_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x, added to that of a residual; the first programs write those of both W, w and v."""
    block, blocks = tl.program_id(0), tl.cdiv(W, FOLD_COLUMNS)
    if block < blocks:
        unfold_norm(
            grad_folded_ptr, first_ptr, second_ptr, norm_weight_ptr, norm_bias_ptr, bias_sum_ptr, mean_sum_ptr,
            grad_first_ptr, grad_second_ptr, grad_norm_weight_ptr, grad_norm_bias_ptr,
            C1, C2, block, W, FOLD_ROWS, FOLD_COLUMNS,
        )  # fmt: skip
    else:
        folded_backward(
            grad_ptr, x_ptr, mean_ptr, rstd_ptr, residual_ptr, grad_x_ptr, R, block - blocks, W, BR, BW
        )  # fmt: skip
