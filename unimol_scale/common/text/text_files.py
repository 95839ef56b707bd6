"""Reads lines of text from a file: decompresses and decodes it, and returns whole lines only.

Compression and encoding are detected from the content, not from the name: browsers decompress silently, and
spreadsheets write UTF-16. If compressed data is truncated or damaged, the text ends after the last whole line before
the damage, since half a line may be a different molecule, and ``Unpacked.problem`` says so. Imports the standard
library, and Arrow for zstd.
"""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from unimol_scale.errors import SourceError

BLOCK_BYTES = 2**18
LONGEST_LINE_BYTES = 2**26
HEAD_BYTES = 1024
STRAY = 8  # one zero byte or more in this many bytes is no accident
TAR_MARK, TAR_MARK_AT = b"ustar", 257
BYTE_ORDER_MARKS = {  # longer ones first: the mark of UTF-32 begins with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
WEB_PAGE = re.compile(rb"\s*<(!doctype|!--|html|head|body|title|meta|script|\?xml)", re.IGNORECASE)
# Bytes that are not UTF-8 become these with errors="surrogateescape"; properly decoded text never contains them.
UNDECODED = re.compile("[\udc80-\udcff]")
UTF8_REMEDY = "save it as UTF-8"


def _open_zstd(file: Any) -> Any:  # noqa: ANN401 - binary files
    import pyarrow

    return pyarrow.CompressedInputStream(file, "zstd")


OPENERS: dict[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _open_zstd,
}
PARQUET_MAGIC = b"PAR1"
NOT_TEXT = {
    b"PK\x03\x04": "a zip archive; unpack it, or pack it as .tar.gz",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive; unpack it, or pack it as .tar.gz",
    b"Rar!": "a RAR archive; unpack it, or pack it as .tar.gz",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV",
    b"\x5d\x00\x00": "an LZMA file of the old format; unpack it, or pack it as .xz",
    PARQUET_MAGIC: "a Parquet file; rename it to end in .parquet (for a build, use --source parquet)",
    b"ARROW1": "an Arrow file; write it as Parquet or CSV",
}
WORKBOOK = b"[Content_Types].xml"  # the first member of the zip archive that an .xlsx file is


class Unpacked:
    """The decompressed bytes of a file, as far as they can be read.

    Args:
        name: name of the file, for messages.
        file: the bytes on disk.
        num_missing: returns the number of bytes that an archive says are still to come; None outside an archive.

    Attributes:
        problem: why the data ended too early; empty before the end, and if nothing is wrong.

    Raises:
        SourceError: the file has a format that is not supported here, such as a zip archive.
    """

    def __init__(self, name: str, file: io.BufferedReader, num_missing: Callable[[], int] | None = None) -> None:
        head = file.peek(HEAD_BYTES)
        for magic, what in NOT_TEXT.items():
            if head.startswith(magic):
                raise SourceError(
                    f"{name} is {'an Excel workbook; save it as CSV' if WORKBOOK in head[:HEAD_BYTES] else what}"
                )
        opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
        self._file = opener(file) if opener else file
        self._num_missing = num_missing
        self.problem = ""

    def read(self, size: int) -> bytes:
        """Return at most ``size`` bytes; empty at the end."""
        try:
            data: bytes = self._file.read1(size)
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the data's
                raise
            self.problem = f"the data is cut off or damaged ({error}); everything before the damage was read"
            return b""
        if not data and self._num_missing is not None and (missing := self._num_missing()):
            self.problem = f"the archive is cut off: {missing:,} bytes of this file are missing"
        return data


def decoded(name: str, unpacked: Unpacked, errors: str = "replace") -> io.TextIOWrapper:
    """Return the text of decompressed bytes as whole lines; every line end becomes a line feed.

    Args:
        name: name of the file, for messages.
        unpacked: its bytes: UTF-8, or UTF-16 or UTF-32 with a byte order mark.
        errors: how to treat bytes that are not UTF-8: "replace" or "surrogateescape".

    Raises:
        SourceError: the file is a web page, or not text.
    """
    lines = _WholeLines(name, _in_utf8(unpacked))
    head = lines.head()
    _check_head(name, head.removeprefix(codecs.BOM_UTF8))
    return io.TextIOWrapper(io.BufferedReader(lines, BLOCK_BYTES), encoding="utf-8-sig", errors=errors, newline=None)


def decoded_rest(name: str, file: io.BufferedReader) -> io.TextIOWrapper:
    """Return the text of a plain file (``is_plain_utf8``) from a line within it, the next to be read, to its end."""
    lines = io.BufferedReader(_WholeLines(name, _Plain(file)), BLOCK_BYTES)
    return io.TextIOWrapper(lines, encoding="utf-8", errors="replace", newline=None)


def is_plain_utf8(path: Path) -> bool:
    """Return whether a file is neither compressed, nor in an encoding with a mark of its own, nor evidently no text.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith((*NOT_TEXT, *OPENERS, *BYTE_ORDER_MARKS)):
        return False
    try:
        _check_head(str(path), head.removeprefix(codecs.BOM_UTF8))
    except SourceError:
        return False
    return True


@contextlib.contextmanager
def open_text(path: Path, errors: str = "replace") -> Iterator[Iterator[str]]:
    """Open a file that must be complete, and yield its lines.

    Args:
        path: a plain file, or one compressed by gzip, bzip2, xz or zstd, whatever its suffix.
        errors: how to treat bytes that are not UTF-8, as in ``decoded``.

    Raises:
        SourceError: the file cannot be read, is not text, or is truncated.
    """

    def lines() -> Iterator[str]:
        yield from text
        if unpacked.problem:
            raise SourceError(f"{path} cannot be read: {unpacked.problem}")

    try:
        with path.open("rb") as file:
            unpacked = Unpacked(str(path), file)
            text = decoded(str(path), unpacked, errors)
            yield lines()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def is_parquet(path: Path) -> bool:
    """Return whether an existing file is Parquet, by its content.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error


def check_decoded(name: str, line: int, text: str) -> None:
    """Refuse a line that was decoded with "surrogateescape" and holds bytes that are not UTF-8.

    Raises:
        SourceError: the line holds such bytes; the message gives its number and what to do.
    """
    if not text.isascii() and UNDECODED.search(text):
        shown = UNDECODED.sub(lambda match: bytes([ord(match.group()) - 0xDC00]).decode("latin-1"), text[:100])
        raise SourceError(
            f"{name}: line {line} holds bytes that are not UTF-8 (as Latin-1: {shown.strip()!r}); {UTF8_REMEDY}"
        )


def _check_head(name: str, head: bytes) -> None:
    if WEB_PAGE.match(head):
        raise SourceError(f"{name} is a web page, not molecules; fetch it again")
    if head.startswith(tuple(OPENERS)):
        raise SourceError(f"{name} is compressed twice; unpack it once")
    if b"\0" not in head or _has_stray_zeros(head):
        return
    if head[TAR_MARK_AT:].startswith(TAR_MARK):
        raise SourceError(f"{name} is a tar archive; rename it to end in .tar, .tar.gz or the like, or unpack it")
    fewer, more = sorted((head[::2].count(0), head[1::2].count(0)))
    if fewer == 0 and 4 * more > len(head):  # most letters have a zero beside them
        raise SourceError(f"{name} seems to be UTF-16 without a byte order mark; {UTF8_REMEDY}")
    raise SourceError(f"{name} is not text")


def _has_stray_zeros(head: bytes) -> bool:
    """Return whether bytes are text with a few stray zeros; the rows that hold them are judged one by one later."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(head.replace(b"\0", b""))
    odd = sum(not character.isprintable() and not character.isspace() for character in text) + text.count("\ufffd")
    return odd == 0 and head.count(0) * STRAY < len(head)


class _Bytes(Protocol):
    """A source of bytes from which whole lines are cut."""

    @property
    def problem(self) -> str:
        """Why the data ended too early; empty if it did not."""

    def read(self, size: int) -> bytes:
        """Return some bytes; empty at the end."""


def _in_utf8(unpacked: Unpacked) -> _Bytes:
    """Return the bytes as UTF-8, transcoded if a byte order mark names another encoding."""
    head = unpacked.read(BLOCK_BYTES)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS.items() if head.startswith(mark)), None)
    return _Begun(head, unpacked) if encoding is None else _Transcoded(_Begun(head, unpacked), encoding)


class _Plain:
    """Bytes as they are in a file."""

    problem = ""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        return self._file.read1(size)


class _Begun:
    """Bytes whose first block has been read already."""

    def __init__(self, head: bytes, rest: Unpacked) -> None:
        self._head, self._rest = head, rest

    @property
    def problem(self) -> str:
        return self._rest.problem

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._rest.read(size)


class _Transcoded:
    """A text in another encoding as UTF-8; what cannot be decoded becomes U+FFFD, which no SMILES contains."""

    def __init__(self, source: _Begun, encoding: str) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    @property
    def problem(self) -> str:
        return self._source.problem

    def read(self, size: int) -> bytes:
        while block := self._source.read(size):
            if text := self._decoder.decode(block):
                return text.encode()
        return self._decoder.decode(b"", final=True).encode()


class _WholeLines(io.RawIOBase):
    """Passes on whole lines; the last line may lack its line end only if the data is known to be complete."""

    def __init__(self, name: str, source: _Bytes) -> None:
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
            end = max(block.rfind(b"\n"), block.rfind(b"\r")) + 1  # old spreadsheets end lines with the latter alone
            if end:
                self._ready, self._rest = self._rest + block[:end], block[end:]
            else:
                self._rest += block
            if len(self._rest) > LONGEST_LINE_BYTES:
                raise SourceError(f"{self._name} is not text: a line is longer than {LONGEST_LINE_BYTES >> 20} MiB")
