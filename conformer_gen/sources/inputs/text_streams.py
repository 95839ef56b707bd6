"""Turns files and archives into streams of text with whole lines, even if the end of the data is damaged.

Members of tar archives are read in order as streams; nothing is unpacked to disk. If data is truncated or damaged, an
additional row reports it.
"""

import io
import itertools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO, TypeVar

from conformer_gen.sources.file_range import WHOLE, FileRange
from conformer_gen.sources.inputs.file_names import bare_suffix, is_archive, stem
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.common.text.text_files import Unpacked, decoded, decoded_rest
from unimol_scale.errors import SourceError

T = TypeVar("T")


class TextStream:
    """The text of one file or of one member of an archive.

    Attributes:
        name: name for messages: that of the file, and of the archive member.
        stem: stem of the name, for naming rows.
        text: the lines; bytes that are not UTF-8 become marks that no SMILES contains.
        within: range of the file; the text begins with it and goes on to the end of the file.
    """

    def __init__(self, name: str, text: TextIO, within: FileRange = WHOLE) -> None:
        self.name, self.stem = name, stem(name)
        self.text, self.within = text, within

    def numbered(self, items: Iterable[T]) -> Iterator[tuple[int, T]]:
        """Yield those of the text's items that are in the range, with their numbers in the file, from 1."""
        first = max(0, self.within.first)
        return enumerate(itertools.islice(items, self.within.last - first), start=first + 1)


Reader = Callable[[TextStream], Iterator[SourceMolecule]]
Opened = Callable[[BinaryIO], None]


def ignore(file: BinaryIO) -> None:
    """Do nothing with an opened file."""


def read_streams(
    path: Path, suffixes: Sequence[str], read: Reader, opened: Opened = ignore, within: FileRange = WHOLE
) -> Iterator[SourceMolecule]:
    """Yield the rows of a file, or of each member of an archive with one of the suffixes, in order.

    Data that ends too early adds a row with that problem.

    Args:
        path: the file.
        suffixes: of the archive's members.
        read: the reader of one text.
        opened: called with the opened file.
        within: range of the file, of those that ``text_ranges`` returns.

    Raises:
        SourceError: the file is a web page, a binary file or a zip archive, or an archive without such a member.
    """
    with path.open("rb") as file:
        opened(file)
        if is_archive(path.name):
            yield from _read_archive(path, Unpacked(str(path), file), suffixes, read)
        elif within.begins_file:
            yield from _read_one(str(path), Unpacked(str(path), file), read, within)
        else:
            file.seek(within.offset)
            yield from read(TextStream(str(path), decoded_rest(str(path), file), within))


def _read_one(name: str, unpacked: Unpacked, read: Reader, within: FileRange = WHOLE) -> Iterator[SourceMolecule]:
    stream = TextStream(name, decoded(name, unpacked), within)
    yield from read(stream)
    if unpacked.problem:
        yield SourceMolecule(id=f"{stream.stem}:truncated", problem=f"{name}: {unpacked.problem}", ends_early=True)


def _read_archive(path: Path, outer: Unpacked, suffixes: Sequence[str], read: Reader) -> Iterator[SourceMolecule]:
    num_members, problem = 0, ""
    pipe: Any = _Pipe(outer)
    try:
        with tarfile.open(fileobj=pipe, mode="r|") as archive:
            for entry in archive:
                base = entry.name.rsplit("/", 1)[-1]
                # Archives made on a Mac contain a "._name" beside every name.
                if not entry.isfile() or base.startswith(".") or bare_suffix(base) not in suffixes:
                    continue
                num_members += 1
                name = f"{path}/{entry.name}"
                member = _Member(archive.fileobj, entry.size)
                unpacked = Unpacked(name, io.BufferedReader(member), member.missing)
                yield from _read_one(name, unpacked, read)
                if unpacked.problem and member.num_missing:
                    return
    except tarfile.TarError as error:
        problem = str(error)
    if any(pipe.tail):
        problem = problem or "the archive is truncated: members may be missing"
    if outer.problem or problem:
        why = f"{path}: {outer.problem or problem}"
        yield SourceMolecule(id=f"{stem(path.name)}:truncated", problem=why, ends_early=True)
    elif not num_members:
        raise SourceError(f"{path} holds no {', '.join(suffixes)} file")


class _Pipe:
    """The input of tarfile, which by itself does not notice an archive that is cut off between two members.

    Attributes:
        tail: the last bytes read; a whole archive ends with zeros.
    """

    def __init__(self, unpacked: Unpacked) -> None:
        self._unpacked = unpacked
        self.tail = b""

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        self.tail = (self.tail + data)[-tarfile.BLOCKSIZE :]
        return data


class _Member(io.RawIOBase):
    """One member of an archive read as a stream; unlike tarfile's own, it returns what exists of a truncated member."""

    def __init__(self, stream: Any, size: int) -> None:  # noqa: ANN401 - tarfile's private stream
        self._stream = stream
        self.num_missing = size

    def missing(self) -> int:
        """Return how many of its bytes have not arrived yet."""
        return self.num_missing

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        data = self._stream.read(min(len(buffer), self.num_missing))
        buffer[: len(data)] = data
        self.num_missing -= len(data)
        return len(data)
