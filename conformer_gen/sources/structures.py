"""SDF files: one molecule per record, with graph, coordinates and data fields."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

from conformer_gen.sources.columns import number
from conformer_gen.sources.file_range import WHOLE, FileRange
from conformer_gen.sources.inputs.text_ranges import Blocks, text_ranges
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.common.text.text_files import open_text
from unimol_scale.errors import SourceError, nearest
from unimol_scale.store.schema import ConformerOrigin

RECORD_END, BLOCK_END = "$$$$", "M  END"
RECORDS_WITH_LABELS = 1000  # among which every label must be, if a file is to be read in ranges


def read_sdf(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each record.

    Raises:
        SourceError: a label is not a number, or no record has it.
    """
    seen: set[str] = set()
    for at, record in stream.numbered(records(stream.text)):
        fields = data_fields(record) if config.labels else {}
        seen |= fields.keys()
        where = f"{stream.name}: record {at}"
        labels = tuple(number(fields.get(label), f"{where}, field {label!r}") for label in config.labels)
        yield row_of(record, ConformerOrigin.FILE, f"{stream.stem}:{at}", labels)
    for label in config.labels:
        if label not in seen and stream.within == WHOLE:
            raise SourceError(f"no record of {stream.name} has the data field {label!r}; {nearest(label, seen)}")


def sdf_ranges(path: Path, config: SourceSettings, most: int) -> list[FileRange]:
    """Return ranges of the records; the whole file if only that can tell whether a label is missing."""
    ranges, missing = text_ranges(path, most, _find_records), set(config.labels)
    if len(ranges) == 1 or not missing:
        return ranges
    with open_text(path) as lines:
        for record in itertools.islice(records(lines), RECORDS_WITH_LABELS):
            missing -= data_fields(record).keys()
    return [WHOLE] if missing else ranges


def _find_records(blocks: Blocks) -> Iterator[tuple[int, int]]:
    mark, at = b"\n" + RECORD_END.encode(), 0
    for offset, block in blocks:
        text = b"\n" + block
        end = 0
        while (place := text.find(mark, end)) >= 0 and (end := text.find(b"\n", place + 1)) >= 0:
            at += 1
            yield at, offset + end


def records(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of each record; the last may lack its ``$$$$``."""
    record: list[str] = []
    for line in lines:
        if line.startswith(RECORD_END):
            yield "".join(record)
            record = []
        else:
            record.append(line)
    if any(line.strip() for line in record):
        yield "".join(record)


def row_of(record: str, origin: ConformerOrigin, name: str, labels: tuple[float, ...]) -> SourceMolecule:
    """Return the row of a record, named after its title if it has one."""
    title = record.split("\n", 1)[0].strip()
    block, end, _ = record.partition(BLOCK_END)
    problem = "" if end else "the record has no end (M  END): it is truncated, or not a mol block"
    return SourceMolecule(id=title or name, block=block + end + "\n", origin=origin, labels=labels, problem=problem)


def data_fields(record: str) -> dict[str, str]:
    """Return the data fields of a record: name → first line of the value."""
    fields: dict[str, str] = {}
    lines = record.partition(BLOCK_END)[2].split("\n")
    for line, value in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith(">") and "<" in line:
            name = line.partition("<")[2].rpartition(">")[0]
            fields.setdefault(name, value.strip())
    return fields


SDF = Source(
    name="sdf",
    suffixes=(".sdf", ".sd"),
    read_stream=read_sdf,
    ranges=sdf_ranges,
    geometry="all",
    takes_labels=True,
)
