"""Writes and hashes safetensors files one tensor at a time; the library's own writer needs all tensors in memory."""

import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unimol_scale.common.files import flush

# Names of the dtypes in the format.
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_CHUNK = 1 << 24  # bytes that are written at once


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and hash of a complete file.

    Attributes:
        bytes: size in bytes.
        sha256: hexadecimal SHA-256 of the content.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class TensorKind:
    """Dtype and shape of a tensor in the header of a file."""

    dtype: torch.dtype
    shape: Sequence[int]

    @property
    def bytes(self) -> int:
        """Size of the tensor in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, kinds: Mapping[str, TensorKind], tensor_of: Callable[[str], Tensor]) -> FileEntry:
    """Write a safetensors file and flush it to disk; equal tensors yield equal bytes.

    Args:
        path: the file to write.
        kinds: name → dtype and shape, in the order of writing.
        tensor_of: name → tensor of that dtype and shape, on any device; called once for each name, in order.

    Returns:
        Size and hash of the file.

    Raises:
        OSError: the disk is full or fails.
    """
    assert sys.byteorder == "little", "safetensors are little-endian"
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, kind in kinds.items():
        stop = offset + kind.bytes
        header[name] = {"dtype": _DTYPES[kind.dtype], "shape": list(kind.shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    size = 0
    with path.open("wb", buffering=0) as file:
        for block in _blocks(text, kinds, tensor_of):
            digest.update(block)
            size += len(block)
            while block:  # an unbuffered write may be partial
                block = block[file.write(block) :]
    flush(path)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def _blocks(header: bytes, kinds: Mapping[str, TensorKind], tensor_of: Callable[[str], Tensor]) -> Iterator[memoryview]:
    yield memoryview(len(header).to_bytes(8, "little") + header)
    for name, kind in kinds.items():
        tensor = tensor_of(name).detach()
        assert (tensor.dtype, tuple(tensor.shape)) == (kind.dtype, tuple(kind.shape)), f"{name} is of another kind"
        elements = tensor.reshape(-1)
        step = _CHUNK // kind.dtype.itemsize
        for start in range(0, len(elements), step):
            part = elements[start : start + step].cpu().contiguous()
            yield part.view(torch.uint8).numpy().data
