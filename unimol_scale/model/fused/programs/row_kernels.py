"""Triton kernels over rows of channels: layer norm, GELU, dropout with its residual, and sums over rows.

Every kernel computes in fp32 and stores in the dtype of what it writes. R rows of W channels in blocks [BR, BW]; BW is
the power of two that holds W. Where a gradient of a weight is a sum over rows, each program adds up its blocks in a
fixed order and writes a row of partial sums, so that results repeat to the bit; ``sum_partials`` adds those.
"""

import triton
import triton.language as tl


@triton.jit
def keep(seed_ptr, stream, line, quad, LINE_QUADS: tl.constexpr, THRESHOLD: tl.constexpr):
    """Return which values are kept [lines, 4·quads], from a counter-based generator (Philox) without any state.

    The counter is the value's place, so a backward pass draws again what the forward pass drew. ``line`` and ``quad``
    count rows and blocks of four columns; a row has LINE_QUADS of them.
    """
    counter = line[:, None] * LINE_QUADS + quad[None, :]
    r0, r1, r2, r3 = tl.randint4x(tl.load(seed_ptr) + stream, counter)
    bits = tl.join(tl.join(r0, r2), tl.join(r1, r3)).reshape(line.shape[0], 4 * quad.shape[0])
    return bits.to(tl.uint32, bitcast=True) >= THRESHOLD


@triton.jit
def branch_factor(
    seed_ptr, stream, row, quad, SHARING, MOLECULE,
    LINE_QUADS: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr,
):  # fmt: skip
    """Return the factor [rows, columns] of dropout and of branches left out for whole molecules.

    ``SHARING`` consecutive rows share a draw of the dropout, ``MOLECULE`` consecutive rows are of one molecule.
    """
    factor = tl.full((row.shape[0], 4 * quad.shape[0]), 1.0, tl.float32)
    if THRESHOLD > 0:
        factor = tl.where(keep(seed_ptr, stream, row // SHARING, quad, LINE_QUADS, THRESHOLD), SCALE, 0.0)
    if PATH_THRESHOLD > 0:
        drawn = tl.randint(tl.load(seed_ptr) + stream + 1, row // MOLECULE)
        kept = drawn.to(tl.uint32, bitcast=True) >= PATH_THRESHOLD
        factor = factor * tl.where(kept, PATH_SCALE, 0.0)[:, None]
    return factor


@triton.jit
def gelu_and_slope(x):
    """Return GELU(x) and its derivative."""
    share = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    return x * share, share + x * 0.3989422804014327 * tl.exp(-0.5 * x * x)


@triton.jit
def of_channels(ptr, W: tl.constexpr, BW: tl.constexpr):
    """Return a vector of W numbers [BW], fp32; zero behind its end."""
    channel = tl.arange(0, BW)
    return tl.load(ptr + channel, mask=channel < W, other=0.0).to(tl.float32)


@triton.jit
def of_rows(ptr, row, R, W: tl.constexpr, BW: tl.constexpr):
    """Return rows of a matrix [R, W], fp32 [rows, BW]; zero outside of it."""
    channel = tl.arange(0, BW)
    here = (row < R)[:, None] & (channel < W)[None, :]
    return tl.load(ptr + row[:, None] * W + channel[None, :], mask=here, other=0.0).to(tl.float32)


@triton.jit
def write_rows(ptr, x, row, R, W: tl.constexpr, BW: tl.constexpr):
    """Write rows [rows, BW] of a matrix [R, W]."""
    channel = tl.arange(0, BW)
    here = (row < R)[:, None] & (channel < W)[None, :]
    tl.store(ptr + row[:, None] * W + channel[None, :], x.to(ptr.dtype.element_ty), mask=here)


@triton.jit
def write_norm(
    x, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, row, R, W: tl.constexpr, EPSILON: tl.constexpr, BW: tl.constexpr
):
    """Write the layer norm of rows x [rows, BW], their means and reciprocal deviations."""
    mean = tl.sum(x, 1) / W
    centred = tl.where((tl.arange(0, BW) < W)[None, :], x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / W + EPSILON)
    weight, bias = of_channels(weight_ptr, W, BW), of_channels(bias_ptr, W, BW)
    write_rows(y_ptr, centred * rstd[:, None] * weight[None, :] + bias[None, :], row, R, W, BW)
    tl.store(mean_ptr + row, mean, mask=row < R)
    tl.store(rstd_ptr + row, rstd, mask=row < R)


@triton.jit
def normal_rows(x_ptr, mean_ptr, rstd_ptr, row, R, W: tl.constexpr, BW: tl.constexpr):
    """Return (x - mean)·rstd of rows x, before a norm's weight and bias; zero outside; and rstd."""
    mean = tl.load(mean_ptr + row, mask=row < R, other=0.0)
    rstd = tl.load(rstd_ptr + row, mask=row < R, other=0.0)
    centred = of_rows(x_ptr, row, R, W, BW) - mean[:, None]
    return tl.where((tl.arange(0, BW) < W)[None, :], centred * rstd[:, None], 0.0), rstd


@triton.jit
def norm_gradient(grad, normal, rstd, weight, W: tl.constexpr):
    """Return the gradient of rows x from that of their layer norm."""
    weighted = grad * weight[None, :]
    along, average = tl.sum(weighted * normal, 1) / W, tl.sum(weighted, 1) / W
    return (weighted - average[:, None] - normal * along[:, None]) * rstd[:, None]


@triton.jit
def layer_norm(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, R,
    W: tl.constexpr, EPSILON: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write the layer norm of rows, the means and the reciprocal deviations."""
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    x = of_rows(x_ptr, row, R, W, BW)
    write_norm(x, weight_ptr, bias_ptr, y_ptr, mean_ptr, rstd_ptr, row, R, W, EPSILON, BW)


@triton.jit
def layer_norm_backward(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, residual_ptr, grad_x_ptr, partial_ptr, PARTIAL_STEP, R,
    W: tl.constexpr, RESIDUAL: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write the gradient of x, added to that of a residual, and partial sums of those of weight and bias."""
    weight, channel = of_channels(weight_ptr, W, BW), tl.arange(0, BW)
    weight_sum, bias_sum = tl.zeros((BW,), tl.float32), tl.zeros((BW,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        grad = of_rows(grad_ptr, row, R, W, BW)
        normal, rstd = normal_rows(x_ptr, mean_ptr, rstd_ptr, row, R, W, BW)
        weight_sum += tl.sum(grad * normal, 0)
        bias_sum += tl.sum(grad, 0)
        grad_x = norm_gradient(grad, normal, rstd, weight, W)
        if RESIDUAL:
            grad_x += of_rows(residual_ptr, row, R, W, BW)
        write_rows(grad_x_ptr, grad_x, row, R, W, BW)
    partial = partial_ptr + tl.program_id(0) * PARTIAL_STEP + channel
    tl.store(partial, weight_sum, mask=channel < W)
    tl.store(partial + W, bias_sum, mask=channel < W)


@triton.jit
def branch_added(
    x_ptr, update_ptr, seed_ptr, stream, row, R, MOLECULE, W: tl.constexpr, THRESHOLD: tl.constexpr,
    SCALE: tl.constexpr, PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Return rows of x + dropout(update)."""
    factor = branch_factor(
        seed_ptr, stream, row, tl.arange(0, BW // 4), 1, MOLECULE,
        BW // 4, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE,
    )  # fmt: skip
    return of_rows(x_ptr, row, R, W, BW) + factor * of_rows(update_ptr, row, R, W, BW)


@triton.jit
def add_branch(
    x_ptr, update_ptr, y_ptr, seed_ptr, stream, R, MOLECULE,
    W: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write x + dropout(update)."""
    row = tl.program_id(0) * BR + tl.arange(0, BR)
    y = branch_added(
        x_ptr, update_ptr, seed_ptr, stream, row, R, MOLECULE,
        W, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE, BW,
    )  # fmt: skip
    write_rows(y_ptr, y, row, R, W, BW)


@triton.jit
def enter_branch(
    grad, x_ptr, mean_ptr, rstd_ptr, weight, bias, grad_update_ptr, normal_ptr, seed_ptr, stream, row, R, MOLECULE,
    W: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write rows of the gradient of a branch's last map and of its normalised input; return the former's sum."""
    grad *= branch_factor(
        seed_ptr, stream, row, tl.arange(0, BW // 4), 1, MOLECULE,
        BW // 4, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE,
    )  # fmt: skip
    write_rows(grad_update_ptr, grad, row, R, W, BW)
    normal, _ = normal_rows(x_ptr, mean_ptr, rstd_ptr, row, R, W, BW)
    write_rows(normal_ptr, normal * weight[None, :] + bias[None, :], row, R, W, BW)
    return tl.sum(grad, 0)


@triton.jit
def enter_backward(
    grad_ptr, x_ptr, mean_ptr, rstd_ptr, weight_ptr, bias_ptr, grad_update_ptr, normal_ptr, partial_ptr, PARTIAL_STEP,
    seed_ptr, stream, R, MOLECULE,
    W: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr,
    PATH_THRESHOLD: tl.constexpr, PATH_SCALE: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write the gradient of a branch's last map, its partial sums for the bias, and the branch's normalised input."""
    weight, bias, channel = of_channels(weight_ptr, W, BW), of_channels(bias_ptr, W, BW), tl.arange(0, BW)
    total = tl.zeros((BW,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        total += enter_branch(
            of_rows(grad_ptr, row, R, W, BW), x_ptr, mean_ptr, rstd_ptr, weight, bias, grad_update_ptr, normal_ptr,
            seed_ptr, stream, row, R, MOLECULE, W, THRESHOLD, SCALE, PATH_THRESHOLD, PATH_SCALE, BW,
        )  # fmt: skip
    tl.store(partial_ptr + tl.program_id(0) * PARTIAL_STEP + channel, total, mask=channel < W)


@triton.jit
def gelu(
    hidden_ptr, active_ptr, seed_ptr, stream, R,
    W: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write dropout(GELU(hidden))."""
    row, channel = tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, BW)
    here = (row < R)[:, None] & (channel < W)[None, :]
    flat = row[:, None] * W + channel[None, :]
    active, _ = gelu_and_slope(tl.load(hidden_ptr + flat, mask=here, other=0.0).to(tl.float32))
    if THRESHOLD > 0:
        active *= tl.where(keep(seed_ptr, stream, row, tl.arange(0, BW // 4), BW // 4, THRESHOLD), SCALE, 0.0)
    tl.store(active_ptr + flat, active.to(active_ptr.dtype.element_ty), mask=here)


@triton.jit
def gelu_backward(
    hidden_ptr, grad_active_ptr, active_ptr, grad_hidden_ptr, partial_ptr, PARTIAL_STEP, seed_ptr, stream, R,
    W: tl.constexpr, THRESHOLD: tl.constexpr, SCALE: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write dropout(GELU(hidden)) again, the gradient of hidden, and its partial sums for the bias."""
    channel = tl.arange(0, BW)
    total = tl.zeros((BW,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        here = (row < R)[:, None] & (channel < W)[None, :]
        flat = row[:, None] * W + channel[None, :]
        active, slope = gelu_and_slope(tl.load(hidden_ptr + flat, mask=here, other=0.0).to(tl.float32))
        grad = tl.load(grad_active_ptr + flat, mask=here, other=0.0).to(tl.float32) * slope
        if THRESHOLD > 0:
            kept = keep(seed_ptr, stream, row, tl.arange(0, BW // 4), BW // 4, THRESHOLD)
            active, grad = tl.where(kept, SCALE * active, 0.0), tl.where(kept, SCALE * grad, 0.0)
        total += tl.sum(grad, 0)
        tl.store(active_ptr + flat, active.to(active_ptr.dtype.element_ty), mask=here)
        tl.store(grad_hidden_ptr + flat, grad.to(grad_hidden_ptr.dtype.element_ty), mask=here)
    tl.store(partial_ptr + tl.program_id(0) * PARTIAL_STEP + channel, total, mask=channel < W)


@triton.jit
def sum_rows(partial_ptr, sum_ptr, block, ROWS, W, WRITTEN, BR: tl.constexpr, BW: tl.constexpr):
    """Write the sums over ROWS rows of a block of columns; from W to WRITTEN they are zero."""
    channel = block * BW + tl.arange(0, BW)
    total = tl.zeros((BW,), tl.float32)
    for first in range(0, ROWS, BR):
        row = first + tl.arange(0, BR)
        here = (row < ROWS)[:, None] & (channel < W)[None, :]
        total += tl.sum(tl.load(partial_ptr + row[:, None] * W + channel[None, :], mask=here, other=0.0), 0)
    tl.store(sum_ptr + channel, total.to(sum_ptr.dtype.element_ty), mask=channel < WRITTEN)


@triton.jit
def sum_partials(
    partial_ptr, others_ptr, sum_ptr, ROWS, W, OTHERS, OTHERS_W, WRITTEN, BR: tl.constexpr, BW: tl.constexpr
):
    """Write the sums over the rows of partial sums, and behind them those over the rows of others, then zeros."""
    block, blocks = tl.program_id(0), tl.cdiv(W, BW)
    if block < blocks:
        sum_rows(partial_ptr, sum_ptr, block, ROWS, W, W, BR, BW)
    else:
        sum_rows(others_ptr, sum_ptr + W, block - blocks, OTHERS, OTHERS_W, WRITTEN, BR, BW)
