"""Triton kernels of the losses of predicted coordinates, for molecules whose N × N distances fit into one block.

A program takes one molecule of N atoms, of which n are real, and finds losses and their gradients in one pass: the
distances are never written. Coordinates are fp32 [B, N, 3].
"""

import triton
import triton.language as tl


@triton.jit
def axis_of(coordinates_ptr, molecule, atom, N, axis: tl.constexpr):
    """Return one coordinate of the atoms."""
    return tl.load(coordinates_ptr + (molecule * N + atom) * 3 + axis, mask=atom < N, other=0.0)


@triton.jit
def sign(x):
    """Return the sign of x, zero at zero."""
    return tl.where(x > 0, 1.0, 0.0) - tl.where(x < 0, 1.0, 0.0)


@triton.jit
def distances(x, y, z):
    """Return the differences along the axes and the distances [N, N]; the root of zero is zero."""
    dx, dy, dz = x[:, None] - x[None, :], y[:, None] - y[None, :], z[:, None] - z[None, :]
    return dx, dy, dz, tl.sqrt(dx * dx + dy * dy + dz * dz)


@triton.jit
def geometry_losses(
    predicted_ptr, clean_ptr, valid_ptr, losses_ptr, coordinate_slope_ptr, distance_slope_ptr, N, BN: tl.constexpr
):  # fmt: skip
    """Write mean |Δr| over n atoms and mean |Δd| over n² pairs [B, 2], and both gradients [B, N, 3]."""
    molecule, atom = tl.program_id(0), tl.arange(0, BN)
    valid = tl.load(valid_ptr + molecule * N + atom, mask=atom < N, other=0).to(tl.float32)
    n = tl.maximum(tl.sum(valid), 1.0)  # a molecule without atoms has no error
    x, y, z = (
        axis_of(predicted_ptr, molecule, atom, N, 0),
        axis_of(predicted_ptr, molecule, atom, N, 1),
        axis_of(predicted_ptr, molecule, atom, N, 2),
    )
    clean_x, clean_y, clean_z = (
        axis_of(clean_ptr, molecule, atom, N, 0),
        axis_of(clean_ptr, molecule, atom, N, 1),
        axis_of(clean_ptr, molecule, atom, N, 2),
    )
    to, here = (molecule * N + atom) * 3, atom < N
    ex, ey, ez = x - clean_x, y - clean_y, z - clean_z
    tl.store(losses_ptr + 2 * molecule, tl.sum((tl.abs(ex) + tl.abs(ey) + tl.abs(ez)) * valid) / n)
    tl.store(coordinate_slope_ptr + to, sign(ex) * valid / n, mask=here)
    tl.store(coordinate_slope_ptr + to + 1, sign(ey) * valid / n, mask=here)
    tl.store(coordinate_slope_ptr + to + 2, sign(ez) * valid / n, mask=here)
    dx, dy, dz, distance = distances(x, y, z)
    _, _, _, clean = distances(clean_x, clean_y, clean_z)
    both = valid[:, None] * valid[None, :] / (n * n)
    tl.store(losses_ptr + 2 * molecule + 1, tl.sum(tl.abs(distance - clean) * both))
    # A pair counts twice, as (i, j) and as (j, i); where the distance is zero it has no direction.
    along = tl.where(distance > 0, 2.0 * sign(distance - clean) * both / tl.where(distance > 0, distance, 1.0), 0.0)
    tl.store(distance_slope_ptr + to, tl.sum(along * dx, 1), mask=here)
    tl.store(distance_slope_ptr + to + 1, tl.sum(along * dy, 1), mask=here)
    tl.store(distance_slope_ptr + to + 2, tl.sum(along * dz, 1), mask=here)


@triton.jit
def weigh_slopes(first_ptr, second_ptr, first_grad_ptr, second_grad_ptr, out_ptr, COUNT, BLOCK: tl.constexpr):
    """Write first · its gradient + second · its gradient; the gradients are single numbers."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    here = place < COUNT
    first = tl.load(first_ptr + place, mask=here, other=0.0) * tl.load(first_grad_ptr)
    second = tl.load(second_ptr + place, mask=here, other=0.0) * tl.load(second_grad_ptr)
    tl.store(out_ptr + place, first + second, mask=here)
