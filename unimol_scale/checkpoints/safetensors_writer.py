"""Writes safetensors one tensor at a time and hashes them; the library's writer needs all tensors in memory."""

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

# Names of the format.
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
_CHUNK = 1 << 24  # bytes that are written at once


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and hash of a complete file.

    Attributes:
        bytes: size.
        sha256: of the content, hexadecimal.
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
        """Size of the tensor."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_safetensors(path: Path, kinds: Mapping[str, TensorKind], tensor_of: Callable[[str], Tensor]) -> FileEntry:
    """Write a file and flush it to disk; the same tensors give the same bytes.

    Args:
        path: of the file.
        kinds: name → dtype and shape, in the order in which they are written.
        tensor_of: returns a tensor of that kind, on any device; called once for each name, in order.

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
            while block:  # an unbuffered file may write only a part
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
