"""What may be read of an HDF5 file: groups, and plain datasets of numbers or text, that lie in the file itself.

No links to other files, no virtual or external datasets, no objects; the size of what is read is known before. Small
datasets are read through h5py's low-level interface, which takes less than half the time of its groups and datasets.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
from h5py import h5a, h5d, h5g, h5l, h5o, h5s

MOST_CHUNK_BYTES = 64 << 20  # that a compressed chunk may have when it is unpacked
LONGEST_TEXT = 10_000
METADATA_CACHE_BYTES = 1 << 20
# What h5py raises for a damaged file, and for types that NumPy has not.
READ_ERRORS = (OSError, ValueError, TypeError, KeyError, RuntimeError)


def open_file(path: Path) -> h5py.File:
    """Open a file for reading.

    The library would keep what it has seen of groups and datasets, 23 kB of memory for each molecule, until that is
    32 MiB of the file; each is looked at once.

    Raises:
        READ_ERRORS: it is not an HDF5 file, or not all of one.
    """
    file = h5py.File(path, "r")
    cache = file.id.get_mdc_config()
    cache.set_initial_size = True
    cache.initial_size = cache.min_size = cache.max_size = METADATA_CACHE_BYTES
    file.id.set_mdc_config(cache)
    return file


class StoredDataset:
    """A dataset whose values lie in the file itself.

    Attributes:
        name: in its group.
        shape: of the dataset.
        dtype: of its values.
    """

    __slots__ = ("_chunk", "_id", "dtype", "name", "shape")

    def __init__(self, name: str, dataset: Any, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:  # noqa: ANN401
        self.name, self._id, self.shape, self._chunk = name, dataset, shape, chunk
        self.dtype: np.dtype[Any] = dataset.dtype

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    def read(self) -> npt.NDArray[Any]:
        """Return all values."""
        values = np.empty(self.shape, self.dtype)
        if values.size:
            self._id.read(h5s.ALL, h5s.ALL, values)
        return values

    def rows(self, at: slice | int) -> npt.NDArray[Any]:
        """Return some of the first axis, or one of it."""
        return np.asarray(h5py.Dataset(self._id)[at])

    def check_numbers(self, most_in_row: int) -> None:
        """Refuse what is not numbers, or too large to be taken into memory row by row.

        Raises:
            TypeError: it holds something else than numbers.
            ValueError: a chunk, or a row of the first axis, is too large.
        """
        if self.dtype.kind not in "iuf":
            raise TypeError(f"{self.name} holds {self.dtype}, no numbers")
        if math.prod(self.shape[1:]) > most_in_row:
            raise ValueError(f"{self.name} has the shape {self.shape}, a row of which has more than {most_in_row:,}")
        if (chunk := math.prod(self._chunk) * self.dtype.itemsize) > MOST_CHUNK_BYTES:
            raise ValueError(f"{self.name} is stored in pieces of {chunk:,} bytes")


class StoredGroup:
    """A group, and the names of its members that lie in the file itself.

    Attributes:
        address: where it lies in the file; no other group lies there.
    """

    __slots__ = ("_id", "_names", "address")

    def __init__(self, group: Any) -> None:  # noqa: ANN401 - of h5py
        self._id = group
        self.address = int(h5o.get_info(group).addr)
        self._names: list[bytes] = []
        group.links.iterate(self._add, info=True)

    def _add(self, name: bytes, link: Any) -> None:  # noqa: ANN401 - of h5py
        if link.type == h5l.TYPE_HARD:
            self._names.append(name)

    def __contains__(self, name: str) -> bool:
        return _encoded(name) in self._names

    def __len__(self) -> int:
        return len(self._names)

    def groups(self, first: int, last: int) -> "Iterator[tuple[str, StoredGroup | Exception]]":
        """Yield the groups among its members first to last - 1, by name, and why one of them cannot be read."""
        for name in self._names[first:last]:
            shown = name.decode("utf-8", "replace")
            try:
                member = h5o.open(self._id, name)
                found = StoredGroup(member) if isinstance(member, h5g.GroupID) else None
            except READ_ERRORS as error:
                yield shown, error
                continue
            if found is not None:
                yield shown, found

    def dataset(self, name: str) -> StoredDataset | None:
        """Return a dataset; None if there is no such, or its values are not in the file.

        Raises:
            READ_ERRORS: the file is damaged there.
        """
        if name not in self:
            return None
        member = h5o.open(self._id, _encoded(name))
        if not isinstance(member, h5d.DatasetID):
            return None
        created, space = member.get_create_plist(), member.get_space()
        layout = created.get_layout()
        if layout == h5d.VIRTUAL or created.get_external_count() or space.get_simple_extent_type() == h5s.NULL:
            return None
        chunk = created.get_chunk() if layout == h5d.CHUNKED else ()
        return StoredDataset(name, member, space.get_simple_extent_dims(), chunk)

    def text(self, name: str) -> str:
        """Return the text of a dataset or of an attribute; "" where there is none, or a very long one.

        Raises:
            READ_ERRORS: the file is damaged there.
        """
        if not name:
            return ""
        found, value = self.dataset(name), None
        if found is not None and found.size == 1 and (kind := h5py.check_string_dtype(found.dtype)) is not None:
            value = found.read().item() if (kind.length or 0) <= LONGEST_TEXT else None
        elif h5a.exists(self._id, _encoded(name)):
            value = h5py.Group(self._id).attrs[name]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return text if isinstance(text, str) and len(text) <= LONGEST_TEXT else ""


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
