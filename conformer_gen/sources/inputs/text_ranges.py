"""Ranges of a large text whose records or frames are numbered, found by one fast look through its bytes.

Rows are named by these numbers, so a range needs that of its first item, and somebody has to count. Compressed files,
archives, and texts that are not in UTF-8 are one range.
"""

import codecs
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from conformer_gen.sources.file_range import HIGHEST, LOWEST, WHOLE, FileRange
from conformer_gen.sources.inputs.file_names import is_archive
from unimol_scale.common.text.text_files import LONGEST_LINE_BYTES, is_plain_utf8

# How far a text with odd line ends is divided depends on it, and unfinished builds need the same ranges: it must stay.
BLOCK_BYTES = 1 << 20

Blocks = Iterator[tuple[int, bytes]]  # offset in the file, and whole lines from there on
FindItems = Callable[[Blocks], Iterator[tuple[int, int]]]  # → number of an item, from 0, and the offset of its text


def text_ranges(path: Path, most: int, find_items: FindItems) -> list[FileRange]:
    """Return at most so many ranges of a text, with about as many bytes each.

    Args:
        path: the file.
        most: ranges.
        find_items: finds items that can be read without what comes before them, in order.

    Raises:
        OSError: the file cannot be read.
    """
    if is_archive(path.name) or not is_plain_utf8(path):
        return [WHOLE]
    size, part = path.stat().st_size, 0
    begins = [(LOWEST, 0)]
    with path.open("rb") as file:
        for number, offset in find_items(_blocks(file)):
            if part < (reached := offset * most // size) < most:
                part = reached
                begins.append((number, offset))
            if part == most - 1:
                break
    return [
        FileRange(first, last, offset) for (first, offset), (last, _) in itertools.pairwise([*begins, (HIGHEST, size)])
    ]


def _blocks(file: BinaryIO) -> Blocks:
    """Yield the text after its byte order mark, up to a line that is too long or ends with a carriage return alone."""
    if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
        file.seek(0)
    while True:
        offset, block = file.tell(), file.read(BLOCK_BYTES)
        rest = file.readline(LONGEST_LINE_BYTES)
        block += rest
        too_long = len(rest) == LONGEST_LINE_BYTES and not rest.endswith(b"\n")
        if not block or too_long or block.count(b"\r") != block.count(b"\r\n"):
            return
        yield offset, block
