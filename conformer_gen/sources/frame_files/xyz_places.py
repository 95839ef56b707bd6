"""Where the frames of an XYZ file begin, and their numbers, without reading what is in them.

Frames are told apart as by the reader: a line with a number of atoms begins one wherever it stands, unless it is the
comment of another.
"""

import re
from collections.abc import Iterator

from conformer_gen.sources.frame_files.frames import MOST_ATOMS
from conformer_gen.sources.inputs.text_ranges import Blocks

COUNT = re.compile(r"\s*(\d{1,12})\s*")
# Every line that may match once it is decoded, and few others: white space, digits, and bytes beyond ASCII.
PERHAPS_COUNT = re.compile(rb"\n[ \t\x0b\x0c\x1c-\x1f0-9\x80-\xff]+\r?(?=\n)")


def find_frames(blocks: Blocks) -> Iterator[tuple[int, int]]:
    """Yield the number of each frame that begins with a number of atoms, and the offset of that line."""
    place = _Place()
    for offset, block in blocks:
        text, done = b"\n" + block, 1
        for match in PERHAPS_COUNT.finditer(text):
            count = COUNT.fullmatch(match[0].decode("utf-8", "replace"))
            if count is None:
                continue
            begin = match.start() + 1
            place.pass_lines(text[done:begin])
            if place.pass_count(int(count[1])):
                yield place.at - 1, offset + begin - 1
            done = match.end() + 1
        place.pass_lines(text[done:])


class _Place:
    """A place between two lines.

    Attributes:
        at: number of the frame, from 1; what stands between two frames is counted as one, too.
    """

    def __init__(self) -> None:
        self.at = 0
        self._left = 0  # lines that the frame still has
        self._comment = False  # whether the first of these is its comment
        self._lost = False

    def pass_lines(self, text: bytes) -> None:
        """Go on by lines that are no numbers of atoms."""
        count = text.count(b"\n")
        if count > self._left and not self._lost:
            beyond = text.split(b"\n", self._left)[-1]
            self._lost = bool(beyond.decode("utf-8", "replace").strip())
            self.at += self._lost
        self._left = max(0, self._left - count)
        self._comment = self._comment and not count

    def pass_count(self, size: int) -> bool:
        """Go on by a line with a number of atoms; return whether it begins a frame."""
        if self._comment:
            self._comment, self._left = False, self._left - 1
            return False
        self.at += 1
        self._comment = 1 <= size <= MOST_ATOMS
        self._lost = not self._comment
        self._left = 1 + size if self._comment else 0
        return True
