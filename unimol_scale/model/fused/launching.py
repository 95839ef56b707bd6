"""Where the Triton kernels may stand in for torch, and how one is started: on a grid, and seen by who counts.

Triton comes with torch's builds for GPUs and is imported when a kernel is needed first. ``TRITON_INTERPRET=1`` before
that runs the kernels on the CPU, slowly, for tests.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from unimol_scale.model.native.library import SWITCH

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# N × N logits and products are one block of a program's registers; rows of channels, too.
MAX_NODES = 64
MAX_CHANNELS = 4096
# Places in a tensor are counted in 32 bits.
MAX_ELEMENTS = 2**31 - 1
# Of all tables of a track together, at most.
MAX_TABLE_ROWS = 1024
# Vectors of 16 bytes, as tensor cores read them.
PITCH = 8
_MIN_BLOCK = 16
_FEW_NODES = 32
_enabled: bool | None = None
_watchers: list[Callable[[str, tuple[Any, ...], dict[str, Any]], None]] = []


def suits(pair_BNNP: Tensor, atom_BND: Tensor) -> bool:
    """Return whether the kernels compute a layer's updates of these: on a GPU, of one dtype, molecules of a usual size.

    Args:
        pair_BNNP: pairs.
        atom_BND: nodes.
    """
    B, N, D = atom_BND.shape
    P = pair_BNNP.shape[-1]
    return (
        are_on(atom_BND)
        # Products in fp32 inside of kernels have no tensor cores and do not fit into the registers: torch's are faster.
        and (atom_BND.dtype != torch.float32 or _enabled is True)
        and atom_BND.dtype in DTYPES
        and pair_BNNP.dtype == atom_BND.dtype
        and N <= MAX_NODES
        and max(D, P) <= MAX_CHANNELS
        and B * N * max(N * 4 * P, 3 * D) <= MAX_ELEMENTS
    )


def suits_tables(nodes: int, *tables: Tensor) -> bool:
    """Return whether the kernels encode a batch with so many nodes, padding included, by tables of a track.

    Args:
        nodes: of a molecule times molecules, for atoms; pairs of them, for pairs.
        tables: and weights.
    """
    first = tables[0]
    return (
        are_on(first)
        and (first.dtype != torch.float32 or _enabled is True)
        and first.dtype in DTYPES
        and all(table.dtype == first.dtype for table in tables)
        and nodes * MAX_TABLE_ROWS <= MAX_ELEMENTS
        and nodes * max(table.shape[-1] for table in tables) <= MAX_ELEMENTS
    )


def are_on(x: Tensor) -> bool:
    """Return whether kernels are used where x is: on GPUs, if Triton is there and nobody asked for torch."""
    if _enabled is not None:
        return _enabled
    return x.is_cuda and os.environ.get(SWITCH, "").lower() != "torch" and has_triton()


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


@contextlib.contextmanager
def kernels_switched(on: bool) -> Iterator[None]:
    """Use the kernels on every device, or on none."""
    global _enabled
    before, _enabled = _enabled, on
    try:
        yield
    finally:
        _enabled = before


@contextlib.contextmanager
def launches_seen_by(watcher: Callable[[str, tuple[Any, ...], dict[str, Any]], None]) -> Iterator[None]:
    """Tell ``watcher`` the name of every kernel that is started, its arguments and its constants."""
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def launch(kernel: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:  # noqa: ANN401
    """Start a kernel; on tensors without numbers, meta or fake ones, it is only seen, and needs no Triton.

    Args:
        kernel: name of its file in the folder ``programs`` and its own, with a point between.
        grid: how many programs.
        arguments: its tensors and numbers.
        constants: what it is compiled with.
    """
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    for watcher in _watchers:
        watcher(kernel, arguments, constants)
    if tensors[0].device.type == "meta" or type(tensors[0]) not in (Tensor, nn.Parameter):
        return
    kernel_named(kernel)[grid](*arguments, **constants)


@functools.cache
def kernel_named(name: str) -> Any:  # noqa: ANN401
    """Return a kernel by the names of its file and its own."""
    file, function = name.split(".")
    return getattr(importlib.import_module(f"{__package__}.programs.{file}"), function)


@functools.cache
def interprets() -> bool:
    """Return whether Triton's interpreter runs the kernels; its products know no bf16."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def in_fp32(x: Tensor) -> bool:
    """Return whether products inside of kernels are computed in fp32."""
    return x.dtype == torch.float32 or interprets()


def block(size: int) -> int:
    """Return the power of two that holds so many, at least what a matrix product wants."""
    return max(_MIN_BLOCK, 1 << (size - 1).bit_length())


def warps(nodes: int) -> int:
    """Return how many warps hold blocks of N × N numbers in their registers."""
    return 4 if block(nodes) <= _FEW_NODES else 8


def rows_per_block(width: int) -> int:
    """Return how many rows of a width a program holds at once."""
    values = 2**16 if interprets() else 2**11
    return max(1, values // block(width))


def programs() -> int:
    """Return how many programs share the rows where each writes partial sums: a few on every multiprocessor."""
    return 2 if interprets() else 512
