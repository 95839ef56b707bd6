"""Files and archives → streams of text, whole lines only, whatever is wrong with the end of the data.

Compression is told by content, not by name: browsers unpack in silence. Members of tar archives are read in order as
streams, nothing is unpacked to disk. Where compressed data is cut off or damaged, the stream ends after the last whole
line before that place, since half a line may be another molecule, and one more row says so.
"""

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from conformer_gen.sources.locations import bare_suffix, is_archive, stem
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.errors import SourceError

BLOCK_BYTES = 2**18
LONGEST_LINE_BYTES = 2**26
HEAD_BYTES = 1024
MARK = b"\xef\xbb\xbf"
WEB_PAGE = re.compile(rb"\s*<(!doctype|!--|html|head|body|title|meta|script|\?xml)", re.IGNORECASE)
OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


class TextStream:
    """The text of one file or of one member of an archive.

    Attributes:
        name: for messages: that of the file, and of the member.
        stem: for naming rows.
        text: the lines; bytes that are not UTF-8 become marks that no SMILES has.
    """

    def __init__(self, name: str, unpacked: "_Unpacked") -> None:
        self.name, self.stem = name, stem(name)
        lines = _WholeLines(name, unpacked)
        head = lines.head().removeprefix(MARK)
        if WEB_PAGE.match(head):
            raise SourceError(f"{name} is a web page, not molecules; fetch it again")
        if b"\0" in head:
            raise SourceError(f"{name} is not text")
        buffered = io.BufferedReader(lines, BLOCK_BYTES)
        self.text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="replace", newline=None)


Reader = Callable[[TextStream], Iterator[SourceMolecule]]


def read_streams(path: Path, suffixes: Sequence[str], read: Reader) -> Iterator[SourceMolecule]:
    """Yield the rows of a file, or of each member of an archive with one of the suffixes, in order.

    Data that ends too early adds a row with that problem.

    Raises:
        SourceError: a web page, a binary file or a zip archive; an archive that holds no such member.
    """
    with path.open("rb") as file:
        if is_archive(path.name):
            yield from _read_archive(path, _Unpacked(str(path), file), suffixes, read)
        else:
            yield from _read_one(str(path), _Unpacked(str(path), file), read)


def _read_one(name: str, unpacked: "_Unpacked", read: Reader) -> Iterator[SourceMolecule]:
    stream = TextStream(name, unpacked)
    yield from read(stream)
    if unpacked.problem:
        yield SourceMolecule(id=f"{stream.stem}:truncated", problem=f"{name}: {unpacked.problem}")


def _read_archive(path: Path, outer: "_Unpacked", suffixes: Sequence[str], read: Reader) -> Iterator[SourceMolecule]:
    num_members, problem = 0, ""
    pipe: Any = _Pipe(outer)
    try:
        with tarfile.open(fileobj=pipe, mode="r|") as archive:
            for entry in archive:
                base = entry.name.rsplit("/", 1)[-1]
                # Archives made on a Mac hold a "._name" beside every name.
                if not entry.isfile() or base.startswith(".") or bare_suffix(base) not in suffixes:
                    continue
                num_members += 1
                name = f"{path}/{entry.name}"
                member = _Member(archive.fileobj, entry.size)
                unpacked = _Unpacked(name, io.BufferedReader(member), member)
                yield from _read_one(name, unpacked, read)
                if unpacked.problem and member.num_missing:
                    return
    except tarfile.TarError as error:
        problem = str(error)
    if any(pipe.tail):
        problem = problem or "the archive has no end: members may be missing"
    if outer.problem or problem:
        yield SourceMolecule(id=f"{stem(path.name)}:truncated", problem=f"{path}: {outer.problem or problem}")
    elif not num_members:
        raise SourceError(f"{path} holds no {', '.join(suffixes)} file")


class _Pipe:
    """What tarfile reads from; it takes an archive that is cut off between two members for a whole one.

    Attributes:
        tail: the last bytes read; a whole archive ends with zeros.
    """

    def __init__(self, unpacked: "_Unpacked") -> None:
        self._unpacked = unpacked
        self.tail = b""

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        self.tail = (self.tail + data)[-tarfile.BLOCKSIZE :]
        return data


class _Member(io.RawIOBase):
    """One member of an archive that is read as a stream; unlike tarfile's own, it gives what there is of it."""

    def __init__(self, stream: Any, size: int) -> None:  # noqa: ANN401 - tarfile's private stream
        self._stream = stream
        self.num_missing = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        data = self._stream.read(min(len(buffer), self.num_missing))
        buffer[: len(data)] = data
        self.num_missing -= len(data)
        return len(data)


class _Unpacked:
    """Bytes without their compression, as far as they can be read.

    Attributes:
        problem: why they ended too early; empty before the end, and if all is well.
    """

    def __init__(self, name: str, file: io.BufferedReader, member: _Member | None = None) -> None:
        head = file.peek(8)
        if head.startswith(b"PK\x03\x04"):
            raise SourceError(f"{name} is a zip archive; unpack it, or pack it as .tar.gz")
        opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
        self._file = opener(file) if opener else file
        self._member = member
        self.problem = ""

    def read(self, size: int) -> bytes:
        """Return some bytes, at most ``size``; none at the end."""
        try:
            data: bytes = self._file.read1(size)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the data's
                raise
            self.problem = f"the data is cut off or damaged ({error}); what stands before that place was read"
            return b""
        if not data and self._member is not None and self._member.num_missing:
            self.problem = f"the archive is cut off: {self._member.num_missing:,} bytes of this file are missing"
        return data


class _WholeLines(io.RawIOBase):
    """Passes on whole lines; the last may lack its end only where the data is known to be complete."""

    def __init__(self, name: str, source: _Unpacked) -> None:
        self._name, self._source = name, source
        self._ready, self._rest = b"", b""

    def readable(self) -> bool:
        return True

    def head(self) -> bytes:
        """Return the first bytes without taking them."""
        self._fill()
        return self._ready[:HEAD_BYTES]

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - any writable buffer
        self._fill()
        data, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)

    def _fill(self) -> None:
        while not self._ready:
            block = self._source.read(BLOCK_BYTES)
            if not block:
                self._ready, self._rest = (b"" if self._source.problem else self._rest), b""
                return
            end = block.rfind(b"\n") + 1
            if end:
                self._ready, self._rest = self._rest + block[:end], block[end:]
            else:
                self._rest += block
            if len(self._rest) > LONGEST_LINE_BYTES:
                raise SourceError(f"{self._name} is not text: a line is longer than {LONGEST_LINE_BYTES >> 20} MiB")
