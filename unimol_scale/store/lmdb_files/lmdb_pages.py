"""LMDB files read page by page, with nothing but the file's own bytes: a damaged one gives a message.

The library maps the file and trusts what stands in it, so that a damaged page ends the process with a bus error. Read
here is the main database of a file of LMDB's format 1, as 64-bit machines write it: two meta pages, of which the one
with the later transaction counts, and from there a B+ tree of branch and leaf pages. Large values have pages of their
own. Imports nothing but the standard library.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from unimol_scale.errors import StoreError

MAGIC, VERSION = 0xBEEFC0DE, 1
HEADER = struct.Struct("<QHHHH")  # of a page: its number, –, flags, and the bounds of its free space
META = struct.Struct("<IIQQ")  # magic, version, –, size of the map
TREE = struct.Struct("<IHHQQQQQ")  # size of a page, flags, depth, pages of three kinds, entries, root
NODE = struct.Struct("<HHHH")  # size in two halves, flags, length of the key
BRANCH, LEAF, OVERFLOW = 0x01, 0x02, 0x04  # flags of pages
LARGE, OTHERS = 0x01, 0x06  # flags of nodes: the value has pages of its own; it is a database or several values
PAGE_SIZES = tuple(1 << bits for bits in range(8, 17))
DEEPEST = 32
NO_PAGE = (1 << 64) - 1

Place = tuple[int, int]  # of a value in the file: where it begins, and how many bytes it has


class LmdbPages:
    """The keys of a file, and values by their places.

    Its last pages may be missing, since the library does not write those that are free. Where others are, the file has
    been cut off.

    Attributes:
        num_entries: number of keys, as the file states it.

    Raises:
        StoreError: it is not a file of that format.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise StoreError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self._size = path.stat().st_size
            self._page_size = 0
            metas = [self._meta(0), self._meta(self._page_size)]
            _, self._root, self._last, self.num_entries = max(metas)
        except StoreError:
            self._file.close()
            raise

    def __enter__(self) -> "LmdbPages":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def places(self) -> Iterator[tuple[bytes, Place]]:
        """Yield every key, in the order of their bytes, and where its value lies.

        Raises:
            StoreError: a page is damaged.
        """
        left = self._last + 1  # pages that can be visited, so that a page that is its own branch comes to an end
        ways: list[list[int]] = [[self._root]] if self._root != NO_PAGE else []
        while ways:
            if not ways[-1]:
                ways.pop()
                continue
            number, left = ways[-1].pop(), left - 1
            if left < 0 or len(ways) > DEEPEST:
                raise StoreError(f"{self._path} is damaged: its pages do not make a tree")
            page = self._page(number)
            flags = HEADER.unpack_from(page)[2]
            if flags & BRANCH:
                nodes = [NODE.unpack_from(page, at) for at in self._nodes(page, number)]
                ways.append([low | high << 16 | upper << 32 for low, high, upper, _ in reversed(nodes)])
            elif flags & LEAF:
                yield from self._entries(page, number)
            else:
                raise StoreError(f"{self._path} is damaged: page {number:,} is none of its tree")

    def value(self, place: Place, most: int) -> bytes:
        """Return a value.

        Raises:
            ValueError: it is larger than allowed, or goes beyond the end of the file.
        """
        begin, size = place
        if size > most:
            raise ValueError(f"its {size:,} bytes are more than the {most:,} that are read")
        self._file.seek(begin)
        found = self._file.read(size)
        if len(found) < size:
            raise ValueError("it goes beyond the end of the file")
        return found

    def _meta(self, at: int) -> tuple[int, int, int, int]:
        """Return the transaction of a meta page, the root of its database, its last page and its number of entries."""
        page = self._read(at, HEADER.size + META.size + 2 * TREE.size + 16)
        magic, version, _, _ = META.unpack_from(page, HEADER.size)
        if magic != MAGIC or version != VERSION:
            raise StoreError(f"{self._path} is not an LMDB file of format {VERSION} (a single file, without a folder)")
        free = HEADER.size + META.size
        page_size = TREE.unpack_from(page, free)[0]
        if page_size not in PAGE_SIZES or page_size != (self._page_size or page_size):
            raise StoreError(f"{self._path} is damaged: its pages have {page_size:,} bytes")
        self._page_size = page_size
        *_, entries, root = TREE.unpack_from(page, free + TREE.size)
        last, transaction = struct.unpack_from("<QQ", page, free + 2 * TREE.size)
        return transaction, root, last, entries

    def _page(self, number: int) -> bytes:
        if number > self._last:
            raise StoreError(f"{self._path} is damaged: it has no page {number:,}")
        return self._read(number * self._page_size, self._page_size)

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        found = self._file.read(size)
        if len(found) < size:
            problem = "is not an LMDB file, or has been cut off"
            raise StoreError(f"{self._path} {problem}: it has {self._size:,} bytes; fetch it again")
        return found

    def _nodes(self, page: bytes, number: int) -> tuple[int, ...]:
        """Return where in a page its nodes begin."""
        lower = HEADER.unpack_from(page)[3]
        if not HEADER.size <= lower <= len(page):
            raise StoreError(f"{self._path} is damaged in page {number:,}")
        found = struct.unpack_from(f"<{(lower - HEADER.size) // 2}H", page, HEADER.size)
        if any(at + NODE.size > len(page) for at in found):
            raise StoreError(f"{self._path} is damaged in page {number:,}")
        return found

    def _entries(self, page: bytes, number: int) -> Iterator[tuple[bytes, Place]]:
        for at in self._nodes(page, number):
            low, high, flags, length = NODE.unpack_from(page, at)
            begin = at + NODE.size + length
            if begin + (8 if flags & LARGE else 0) > len(page):
                raise StoreError(f"{self._path} is damaged in page {number:,}")
            if flags & OTHERS:
                continue
            place = number * self._page_size + begin
            if flags & LARGE:
                place = int.from_bytes(page[begin : begin + 8], "little") * self._page_size + HEADER.size
            yield page[at + NODE.size : begin], (min(place, self._size), low | high << 16)
