"""Packs the tensors of a dataclass into one block of memory for transfer from loader to rank and on to the device.

Each tensor that crosses between processes costs a file descriptor and system calls, and torch cannot pin dataclasses:
a micro-batch of a dozen small tensors took longer to receive than to make.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
ALIGNMENT = 16  # bytes, at least the size of any element


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tensor lies in the block."""

    start: int
    dtype: torch.dtype
    shape: torch.Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed(Generic[T]):
    """A dataclass, mapping or tensor whose tensors are stored in one block.

    Attributes:
        block: uint8, all tensors end to end.
        frame: the value, with a place in the block instead of each tensor.
    """

    block: Tensor
    frame: T

    def pin_memory(self) -> "Packed[T]":
        """Return a copy in page-locked memory; torch's data loader calls this."""
        return dataclasses.replace(self, block=self.block.pin_memory())

    def unpack(self) -> T:
        """Return the value; its tensors are views of the block."""

        def view(place: _Place) -> Tensor:
            size = place.shape.numel() * place.dtype.itemsize
            return self.block[place.start : place.start + size].view(place.dtype).view(place.shape)

        unpacked: T = _replace(self.frame, _Place, view)
        return unpacked


def pack(value: T) -> Packed[T]:
    """Copy the tensors of a value, which must be on the CPU, into one block; return the packed value."""
    parts: list[tuple[int, Tensor]] = []
    end = 0

    def place(tensor: Tensor) -> _Place:
        nonlocal end
        start = -(-end // ALIGNMENT) * ALIGNMENT
        end = start + tensor.numel() * tensor.element_size()
        parts.append((start, tensor))
        return _Place(start=start, dtype=tensor.dtype, shape=tensor.shape)

    frame = _replace(value, Tensor, place)
    block = torch.empty(end, dtype=torch.uint8)
    for start, tensor in parts:
        flat = tensor.contiguous().view(-1).view(torch.uint8)
        block[start : start + len(flat)] = flat
    return Packed(block=block, frame=frame)


def replace_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """Return a copy of a dataclass, mapping or tensor with every tensor inside replaced by ``change`` of it."""
    replaced: T = _replace(value, Tensor, change)
    return replaced


def _replace(value: Any, kind: type[Any], change: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    """Return a copy of nested dataclasses and mappings with every object of a type replaced by ``change`` of it."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _replace(item, kind, change) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _replace(getattr(value, field.name), kind, change) for field in dataclasses.fields(value)}
        return type(value)(**fields)
    return value


def to_device(value: T, device: torch.device, *, non_blocking: bool = True) -> T:
    """Return a copy of a dataclass, mapping or tensor with every tensor inside on ``device``.

    Tensors that share a block, as ``unpack`` returns them, are transferred in one copy of the block.
    """

    def copy(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=non_blocking)

    moved: T = _replace(value, Tensor, copy) if device.type == "cpu" else copy_by_blocks(value, copy)
    return moved


def copy_by_blocks(value: T, copy: Callable[[Tensor], Tensor]) -> T:
    """Return a value with its tensors copied; tensors that share a block of host memory are copied together."""
    tensors: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        tensors.append(tensor)
        return tensor

    _replace(value, Tensor, note)
    copies = {place: copy(block) for place, block in _shared_blocks(tensors).items()}

    def move(tensor: Tensor) -> Tensor:
        copied = copies.get(_place(tensor)) if copies else None
        if copied is None:
            return copy(tensor)
        start = tensor.storage_offset() * tensor.element_size()
        return copied[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)

    moved: T = _replace(value, Tensor, move)
    return moved


def _place(tensor: Tensor) -> int:
    """Return the address of a plain tensor's host memory; 0 for other tensors."""
    is_plain = type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.is_contiguous()
    return tensor.untyped_storage().data_ptr() if is_plain else 0


def _shared_blocks(tensors: Sequence[Tensor]) -> dict[int, Tensor]:
    """Return address → bytes of each block of host memory that several tensors share and fill to more than half."""
    found: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        found.setdefault(_place(tensor), []).append(tensor)
    blocks = {}
    for place, sharing in found.items():
        storage = sharing[0].untyped_storage()
        if place and len(sharing) > 1 and 2 * sum(tensor.nbytes for tensor in sharing) > storage.nbytes():
            blocks[place] = torch.empty(0, dtype=torch.uint8).set_(storage)
    return blocks
