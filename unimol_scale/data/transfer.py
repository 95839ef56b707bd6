"""A dataclass of tensors as one block of memory, for its way from a loader process to the rank and on to the device.

Each tensor that crosses between processes costs a file descriptor and system calls, and pinning knows nothing of
dataclasses: a micro-batch of a dozen small tensors took longer to receive than to make.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
ALIGNMENT = 16  # bytes, no less than any element


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Place:
    """Where in the block a tensor lies."""

    start: int
    dtype: torch.dtype
    shape: torch.Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Packed(Generic[T]):
    """A dataclass, mapping or tensor whose tensors are one block.

    Attributes:
        block: uint8, all tensors end to end.
        frame: the value, with the place of each tensor instead of it.
    """

    block: Tensor
    frame: T

    def pin_memory(self) -> "Packed[T]":
        """Return it in page-locked memory; the loader calls this."""
        return dataclasses.replace(self, block=self.block.pin_memory())

    def unpack(self) -> T:
        """Return the value; its tensors are views of the block."""

        def view(place: _Place) -> Tensor:
            size = place.shape.numel() * place.dtype.itemsize
            return self.block[place.start : place.start + size].view(place.dtype).view(place.shape)

        unpacked: T = _replace(self.frame, _Place, view)
        return unpacked


def pack(value: T) -> Packed[T]:
    """Return a value with its tensors, which must be on the CPU, copied into one block."""
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


def _replace(value: Any, kind: type[Any], change: Callable[[Any], Any]) -> Any:  # noqa: ANN401
    """Return a copy of nested dataclasses and mappings with everything of a kind changed."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _replace(item, kind, change) for key, item in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _replace(getattr(value, field.name), kind, change) for field in dataclasses.fields(value)}
        return type(value)(**fields)
    return value


def to_device(value: T, device: torch.device, *, non_blocking: bool = True) -> T:
    """Return a copy of a dataclass, mapping or tensor with every tensor inside on ``device``."""
    moved: T = _replace(value, Tensor, lambda tensor: tensor.to(device, non_blocking=non_blocking))
    return moved
