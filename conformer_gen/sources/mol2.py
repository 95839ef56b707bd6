"""MOL2 files: one molecule a record, with bonds and coordinates, as docking programs write ligands."""

from collections.abc import Iterator
from pathlib import Path

from conformer_gen.sources.file_range import FileRange
from conformer_gen.sources.inputs.text_ranges import Blocks, text_ranges
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import MOL2_RECORD, SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.store.schema import ConformerOrigin

LONGEST_RECORD = 1 << 20  # characters


def read_mol2(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each record, named after its title if it has one."""
    for at, record in stream.numbered(_records(stream)):
        name = f"{stream.stem}:{at}"
        lines = record.split("\n", 2)
        title = lines[1].strip() if len(lines) > 1 and record.startswith(MOL2_RECORD) else ""
        problem = "" if "@<TRIPOS>ATOM" in record else f"record {at} of {stream.name} has no atoms: is it cut off?"
        if not record.startswith(MOL2_RECORD):
            problem = f"{stream.name} begins with {record[:50].strip()!r}, no {MOL2_RECORD}"
        if len(record) > LONGEST_RECORD:
            record, problem = "", f"record {at} of {stream.name} has more than {LONGEST_RECORD:,} characters"
        yield SourceMolecule(
            id=title if title and title != "*****" else name, block=record, origin=ConformerOrigin.FILE, problem=problem
        )


def _records(stream: TextStream) -> Iterator[str]:
    """Yield the text of each record without comments, of a long one the beginning, and what stands before the first."""
    lines: list[str] = []
    length = 0
    for line in stream.text:
        if line.startswith(MOL2_RECORD):
            if lines:
                yield "".join(lines)
            lines, length = [], 0
        if not line.startswith("#") and length <= LONGEST_RECORD and (lines or line.strip()):
            lines.append(line)
            length += len(line)
    if lines:
        yield "".join(lines)


def mol2_ranges(path: Path, config: SourceSettings, most: int) -> list[FileRange]:
    """Return ranges of the records."""
    return text_ranges(path, most, _find_records)


def _find_records(blocks: Blocks) -> Iterator[tuple[int, int]]:
    mark, at, begun = b"\n" + MOL2_RECORD.encode(), 0, False
    for offset, block in blocks:
        text = b"\n" + block
        place = text.find(mark)
        if not begun:  # what stands before the first record is counted as one
            head = (text if place < 0 else text[:place]).decode("utf-8", "replace")
            begun = any(line.strip() and not line.startswith("#") for line in head.split("\n"))
        while place >= 0:
            at += begun
            begun = True
            yield at, offset + place
            place = text.find(mark, place + 1)


MOL2 = Source(name="mol2", suffixes=(".mol2",), read_stream=read_mol2, ranges=mol2_ranges, geometry="all")
