"""Pads the tensors of a sample to a given shape: by atoms that are not there, and by molecules without atoms.

A tensor's dimensions are read off the suffix of its name, such as ``token_BA``: B molecules, A atoms.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor

DataT = TypeVar("DataT")


def pad_fields(value: DataT, sizes: Mapping[str, int], fills: Mapping[str, float], keep: frozenset[str]) -> DataT:
    """Return a dataclass whose tensors, also those of dataclasses inside it, are padded at the end.

    Args:
        value: the dataclass.
        sizes: letter of a dimension → its size afterwards, at least that before.
        fills: name of a field of the dataclass itself → value of its padding, if that is not 0.
        keep: names of fields that stay as they are.
    """
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        item = getattr(value, field.name)
        if isinstance(item, Tensor) and field.name not in keep:
            changed[field.name] = _padded(item, field.name, sizes, fills.get(field.name, 0))
        elif dataclasses.is_dataclass(item) and not isinstance(item, type):
            changed[field.name] = pad_fields(item, sizes, {}, keep)
    padded: DataT = dataclasses.replace(value, **changed)  # type: ignore[type-var]
    return padded


def _padded(tensor: Tensor, name: str, sizes: Mapping[str, int], fill: float) -> Tensor:
    letters = name.rpartition("_")[2]
    assert len(letters) == tensor.dim(), f"the suffix of {name} names {len(letters)} dimensions of {tensor.dim()}"
    shape = [sizes.get(letter, size) for letter, size in zip(letters, tensor.shape, strict=True)]
    padded = tensor.new_full(shape, fill)
    padded[tuple(slice(size) for size in tensor.shape)] = tensor
    return padded
