"""Triton kernels from the integers and coordinates of a batch to first representations, as ``model.encodings`` says.

Gradients of tables are products of matrices: a row of "columns" says how often a node or a pair took which row of the
tables, one below the other. So they repeat to the bit, which adding in whatever order programs come would not.
Shapes: B molecules, A atoms, N = A + 1 nodes (virtual node first), R nodes or pairs in rows, W channels, G Gaussians.
"""

import triton
import triton.language as tl

from unimol_scale.data import vocabulary as vocab

_HIDDEN, _RAW_HIDDEN = tl.constexpr(vocab.HIDDEN), tl.constexpr(vocab.RAW_HIDDEN)
_DEGREE_OFFSET, _NUM_FEATURES = tl.constexpr(vocab.DEGREE_OFFSET), tl.constexpr(vocab.NUM_ATOM_FEATURES)
_FEATURE_OFFSET, _FEATURE_STRIDE = tl.constexpr(vocab.ATOM_FEATURE_OFFSET), tl.constexpr(vocab.ATOM_FEATURE_STRIDE)
_NUM_TOKENS, _NUM_DEGREES = tl.constexpr(vocab.NUM_TOKENS), tl.constexpr(vocab.NUM_DEGREE_CODES)
_NUM_ATOM_CODES = tl.constexpr(vocab.NUM_ATOM_CODES)
_NO_BOND, _NUM_BOND_FEATURES = tl.constexpr(vocab.NO_BOND), tl.constexpr(vocab.NUM_BOND_FEATURES)
_BOND_OFFSET, _BOND_STRIDE = tl.constexpr(vocab.BOND_FEATURE_OFFSET - 1), tl.constexpr(vocab.BOND_FEATURE_STRIDE)
_NUM_BOND_CODES, _NUM_PATHS = tl.constexpr(vocab.NUM_BOND_CODES), tl.constexpr(vocab.NUM_PATH_CODES)
_PATH_OFFSET, _PATH_HIDDEN = tl.constexpr(vocab.PATH_OFFSET), tl.constexpr(vocab.PATH_HIDDEN)
_FIRST, _SECOND = tl.constexpr(vocab.PAIR_TYPE_FIRST_OFFSET), tl.constexpr(vocab.PAIR_TYPE_SECOND_OFFSET)


@triton.jit
def of_atom(token_ptr, degree_ptr, hidden_ptr, row, R, N):
    """Return whether rows of nodes are atoms, their places among atoms, tokens, degree codes, and who is hidden."""
    molecule, node = row // N, row % N
    is_atom = (row < R) & (node > 0)
    atom = molecule * (N - 1) + node - 1
    token = tl.load(token_ptr + atom, mask=is_atom, other=0).to(tl.int32)
    raw = tl.load(degree_ptr + atom, mask=is_atom, other=0).to(tl.int32)
    hidden = tl.load(hidden_ptr + molecule, mask=row < R, other=0) != 0
    degree = tl.where(hidden | (raw == _RAW_HIDDEN), _HIDDEN, raw + _DEGREE_OFFSET)
    return is_atom, atom, token, tl.where(token > 0, degree, 0), hidden


@triton.jit
def feature_of_atom(features_ptr, atom, is_atom, token, hidden, k):
    """Return the code of feature k of the atoms."""
    raw = tl.load(features_ptr + atom * _NUM_FEATURES + k, mask=is_atom, other=0).to(tl.int32)
    code = tl.where(hidden | (raw == _RAW_HIDDEN), _HIDDEN, raw + _FEATURE_OFFSET + _FEATURE_STRIDE * k)
    return tl.where(token > 0, code, 0)


@triton.jit
def rows_of(table_ptr, code, channel, here, W):
    """Return rows of a table, fp32; zero where not here."""
    return tl.load(table_ptr + code[:, None] * W + channel[None, :], mask=here, other=0.0).to(tl.float32)


@triton.jit
def encode_atoms(
    token_ptr, degree_ptr, features_ptr, hidden_ptr, tokens_ptr, degrees_ptr, codes_ptr, virtual_ptr, y_ptr,
    R, N, W, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write the sums of the atoms' rows of the tables, and the virtual nodes' row [B·N, W]."""
    row, channel = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BW + tl.arange(0, BW)
    is_atom, atom, token, degree, hidden = of_atom(token_ptr, degree_ptr, hidden_ptr, row, R, N)
    wide = (channel < W)[None, :]
    here = is_atom[:, None] & wide
    total = rows_of(tokens_ptr, token, channel, here, W) + rows_of(degrees_ptr, degree, channel, here, W)
    for k in tl.static_range(0, _NUM_FEATURES):
        code = feature_of_atom(features_ptr, atom, is_atom, token, hidden, k)
        total += rows_of(codes_ptr, code, channel, here, W)
    virtual = tl.load(virtual_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    y = tl.where(is_atom[:, None], total, virtual[None, :])
    place = row[:, None] * W + channel[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=(row < R)[:, None] & wide)


@triton.jit
def columns_of_atoms(
    token_ptr, degree_ptr, features_ptr, hidden_ptr, columns_ptr, R, N, V, BR: tl.constexpr, BV: tl.constexpr
):  # fmt: skip
    """Write how often a node takes which row of the tables [B·N, V]: tokens, degrees, features, the virtual node."""
    row, column = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BV + tl.arange(0, BV)
    is_atom, atom, token, degree, hidden = of_atom(token_ptr, degree_ptr, hidden_ptr, row, R, N)
    of_features = column - _NUM_TOKENS - _NUM_DEGREES
    # Padding, code 0, has no gradient.
    is_real = (token > 0)[:, None]
    taken = (is_real & (column[None, :] == token[:, None])).to(tl.float32)
    taken += (is_real & ((column - _NUM_TOKENS)[None, :] == degree[:, None])).to(tl.float32)
    for k in tl.static_range(0, _NUM_FEATURES):
        code = feature_of_atom(features_ptr, atom, is_atom, token, hidden, k)
        taken += (is_real & (of_features[None, :] == code[:, None])).to(tl.float32)
    taken += ((of_features == _NUM_ATOM_CODES)[None, :] & (is_atom == 0)[:, None]).to(tl.float32)
    place = row[:, None] * V + column[None, :]
    here = (row < R)[:, None] & (column < V)[None, :]
    tl.store(columns_ptr + place, taken.to(columns_ptr.dtype.element_ty), mask=here)


@triton.jit
def of_pair(token_ptr, path_ptr, hidden_ptr, row, R, N):
    """Return whether rows of pairs are of atoms, their places among those, who is padding or hidden, and path codes."""
    molecule, i, j = row // (N * N), row // N % N, row % N
    is_pair = (row < R) & (i > 0) & (j > 0)
    first = tl.load(token_ptr + molecule * (N - 1) + i - 1, mask=is_pair, other=0)
    second = tl.load(token_ptr + molecule * (N - 1) + j - 1, mask=is_pair, other=0)
    is_real = (first != 0) & (second != 0)
    pair = (molecule * (N - 1) + i - 1) * (N - 1) + j - 1
    hidden = tl.load(hidden_ptr + molecule, mask=row < R, other=0) != 0
    path = tl.load(path_ptr + pair, mask=is_pair, other=0).to(tl.int32) + _PATH_OFFSET
    return is_pair, pair, is_real, hidden, tl.where(is_real, tl.where(hidden, _PATH_HIDDEN, path), 0)


@triton.jit
def bond_of_pair(bonds_ptr, pair, is_pair, is_real, hidden, k):
    """Return the code of bond feature k of the pairs."""
    raw = tl.load(bonds_ptr + pair * _NUM_BOND_FEATURES + k, mask=is_pair, other=0).to(tl.int32)
    code = tl.where(raw == 0, _NO_BOND, raw + _BOND_OFFSET + _BOND_STRIDE * k)
    return tl.where(is_real, tl.where(hidden, _HIDDEN, code), 0)


@triton.jit
def encode_pairs(
    token_ptr, bonds_ptr, path_ptr, hidden_ptr, bond_table_ptr, path_table_ptr, virtual_ptr, distance_ptr, y_ptr,
    R, N, W, BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """Write the mean of a pair's bond rows + its path's row + its distance's [B·A², W], or the virtual row."""
    row, channel = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BW + tl.arange(0, BW)
    is_pair, pair, is_real, hidden, path = of_pair(token_ptr, path_ptr, hidden_ptr, row, R, N)
    wide = (channel < W)[None, :]
    here = is_pair[:, None] & wide
    bonds = tl.zeros((BR, BW), tl.float32)
    for k in tl.static_range(0, _NUM_BOND_FEATURES):
        code = bond_of_pair(bonds_ptr, pair, is_pair, is_real, hidden, k)
        bonds += rows_of(bond_table_ptr, code, channel, here, W)
    total = bonds / _NUM_BOND_FEATURES + rows_of(path_table_ptr, path, channel, here, W)
    total += rows_of(distance_ptr, pair, channel, here, W)
    virtual = tl.load(virtual_ptr + channel, mask=channel < W, other=0.0).to(tl.float32)
    y = tl.where(is_pair[:, None], total, virtual[None, :])
    place = row[:, None] * W + channel[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=(row < R)[:, None] & wide)


@triton.jit
def columns_of_pairs(
    token_ptr, bonds_ptr, path_ptr, hidden_ptr, columns_ptr, R, N, V, BR: tl.constexpr, BV: tl.constexpr
):  # fmt: skip
    """Write how often a pair takes which row of the tables [B·N², V]: bonds, paths, the virtual pair."""
    row, column = tl.program_id(0) * BR + tl.arange(0, BR), tl.program_id(1) * BV + tl.arange(0, BV)
    is_pair, pair, is_real, hidden, path = of_pair(token_ptr, path_ptr, hidden_ptr, row, R, N)
    of_paths = column - _NUM_BOND_CODES
    taken = (is_real[:, None] & (of_paths[None, :] == path[:, None])).to(tl.float32)
    for k in tl.static_range(0, _NUM_BOND_FEATURES):
        code = bond_of_pair(bonds_ptr, pair, is_pair, is_real, hidden, k)
        taken += (is_real[:, None] & (column[None, :] == code[:, None])).to(tl.float32)
    taken += ((of_paths == _NUM_PATHS)[None, :] & (is_pair == 0)[:, None]).to(tl.float32)
    place = row[:, None] * V + column[None, :]
    here = (row < R)[:, None] & (column < V)[None, :]
    tl.store(columns_ptr + place, taken.to(columns_ptr.dtype.element_ty), mask=here)


@triton.jit
def pairs_of_atoms(x_ptr, y_ptr, partial_ptr, PARTIAL_STEP, R, N, W: tl.constexpr, BR: tl.constexpr, BW: tl.constexpr):
    """Write the rows of x [B·N², W] that are of pairs of atoms [B·A², W], and partial sums over them."""
    channel, A = tl.arange(0, BW), N - 1
    total = tl.zeros((BW,), tl.float32)
    for first in range(tl.program_id(0) * BR, R, tl.num_programs(0) * BR):
        row = first + tl.arange(0, BR)
        here = (row < R)[:, None] & (channel < W)[None, :]
        source = (row // (A * A) * N + row // A % A + 1) * N + row % A + 1
        x = tl.load(x_ptr + source[:, None] * W + channel[None, :], mask=here, other=0.0)
        total += tl.sum(x.to(tl.float32), 0)
        tl.store(y_ptr + row[:, None] * W + channel[None, :], x, mask=here)
    tl.store(partial_ptr + tl.program_id(0) * PARTIAL_STEP + channel, total, mask=channel < W)


@triton.jit
def distance_between(coordinates_ptr, first, second, here):
    """Return the distances between atoms, by their places among all; |x| has no slope at zero."""
    total = tl.zeros_like(here.to(tl.float32))
    for axis in tl.static_range(0, 3):
        at = tl.load(coordinates_ptr + first * 3 + axis, mask=here, other=0.0)
        delta = at - tl.load(coordinates_ptr + second * 3 + axis, mask=here, other=0.0)
        total += delta * delta
    return tl.sqrt(total)


@triton.jit
def map_of(token_ptr, scale_ptr, shift_ptr, atom, here, offset):
    """Return code, scale and shift that atoms bring to the map of a distance, as its first or second."""
    token = tl.load(token_ptr + atom, mask=here, other=0).to(tl.int32)
    code = tl.where(token > 0, token + offset, 0)
    scale = tl.load(scale_ptr + code, mask=here, other=0.0).to(tl.float32)
    return code, scale, tl.load(shift_ptr + code, mask=here, other=0.0).to(tl.float32)


@triton.jit
def offset_and_density(x, centres_ptr, gaussian, G, SPACING, LOG2_NORM):
    """Return offsets from the centres and densities [rows, Gaussians]."""
    centre = tl.load(centres_ptr + gaussian, mask=gaussian < G, other=0.0)
    offset = (x / SPACING)[:, None] - (centre / SPACING)[None, :]
    return offset, tl.exp2(LOG2_NORM - 0.7213475204444817 * offset * offset)


@triton.jit
def pair_densities(
    token_ptr, coordinates_ptr, scale_ptr, shift_ptr, centres_ptr, density_ptr, R, A, SPACING, LOG2_NORM,
    G: tl.constexpr, BR: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """Write the densities of mapped distances of pairs of atoms [B·A², G]."""
    row, gaussian = tl.program_id(0) * BR + tl.arange(0, BR), tl.arange(0, BG)
    here = row < R
    first, second = row // A, row // (A * A) * A + row % A
    distance = distance_between(coordinates_ptr, first, second, here)
    _, first_scale, first_shift = map_of(token_ptr, scale_ptr, shift_ptr, first, here, _FIRST)
    _, second_scale, second_shift = map_of(token_ptr, scale_ptr, shift_ptr, second, here, _SECOND)
    x = (tl.abs(first_scale) + tl.abs(second_scale)) * distance + first_shift + second_shift
    _, density = offset_and_density(x, centres_ptr, gaussian, G, SPACING, LOG2_NORM)
    place = row[:, None] * G + gaussian[None, :]
    inside = here[:, None] & (gaussian < G)[None, :]
    tl.store(density_ptr + place, density.to(density_ptr.dtype.element_ty), mask=inside)


@triton.jit
def pair_densities_backward(
    grad_ptr, token_ptr, coordinates_ptr, scale_ptr, shift_ptr, centres_ptr, code_ptr, scale_grad_ptr, shift_grad_ptr,
    A, ATOMS, SPACING, LOG2_NORM, G: tl.constexpr, BA: tl.constexpr, BG: tl.constexpr,
):  # fmt: skip
    """Write codes and gradients of scale and shift of all atoms as first, then as second of their pairs [2·B·A].

    A program takes one molecule, one first atom after another.
    """
    molecule, j, gaussian = tl.program_id(0), tl.arange(0, BA), tl.arange(0, BG)
    here = j < A
    second = molecule * A + j
    second_code, second_scale, second_shift = map_of(token_ptr, scale_ptr, shift_ptr, second, here, _SECOND)
    scale_sum, shift_sum = tl.zeros((BA,), tl.float32), tl.zeros((BA,), tl.float32)
    for i in range(0, A):
        first = molecule * A + i
        token = tl.load(token_ptr + first).to(tl.int32)
        code = tl.where(token > 0, token + _FIRST, 0)
        scale, shift = tl.load(scale_ptr + code).to(tl.float32), tl.load(shift_ptr + code).to(tl.float32)
        distance = distance_between(coordinates_ptr, first + tl.zeros_like(j), second, here)
        x = (tl.abs(scale) + tl.abs(second_scale)) * distance + shift + second_shift
        offset, density = offset_and_density(x, centres_ptr, gaussian, G, SPACING, LOG2_NORM)
        place = (first * A + j)[:, None] * G + gaussian[None, :]
        grad = tl.load(grad_ptr + place, mask=here[:, None] & (gaussian < G)[None, :], other=0.0).to(tl.float32)
        slope = tl.sum(grad * density * offset, 1) / -SPACING
        scale_sum += slope * distance
        shift_sum += slope
        sign = tl.where(scale > 0, 1.0, 0.0) - tl.where(scale < 0, 1.0, 0.0)
        tl.store(code_ptr + first, code.to(tl.int64))
        tl.store(scale_grad_ptr + first, (sign * tl.sum(slope * distance)).to(scale_grad_ptr.dtype.element_ty))
        tl.store(shift_grad_ptr + first, tl.sum(slope).to(shift_grad_ptr.dtype.element_ty))
    signs = tl.where(second_scale > 0, 1.0, 0.0) - tl.where(second_scale < 0, 1.0, 0.0)
    tl.store(code_ptr + ATOMS + second, second_code.to(tl.int64), mask=here)
    tl.store(scale_grad_ptr + ATOMS + second, (signs * scale_sum).to(scale_grad_ptr.dtype.element_ty), mask=here)
    tl.store(shift_grad_ptr + ATOMS + second, shift_sum.to(shift_grad_ptr.dtype.element_ty), mask=here)
