"""SDF files: one molecule per record, with graph, coordinates and data fields."""

from collections.abc import Iterator

from conformer_gen.sources.columns import number
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.errors import SourceError, nearest
from unimol_scale.store.schema import ConformerOrigin

RECORD_END, BLOCK_END = "$$$$", "M  END"


def read_sdf(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each record.

    Raises:
        SourceError: a label is not a number, or no record has it.
    """
    seen: set[str] = set()
    for at, record in enumerate(records(stream), start=1):
        fields = data_fields(record) if config.labels else {}
        seen |= fields.keys()
        where = f"{stream.name}: record {at}"
        labels = tuple(number(fields.get(label), f"{where}, field {label!r}") for label in config.labels)
        yield row_of(record, ConformerOrigin.FILE, f"{stream.stem}:{at}", labels)
    for label in config.labels:
        if label not in seen:
            raise SourceError(f"no record of {stream.name} has the data field {label!r}; {nearest(label, seen)}")


def records(stream: TextStream) -> Iterator[str]:
    """Yield the text of each record; the last may lack its ``$$$$``."""
    lines: list[str] = []
    for line in stream.text:
        if line.startswith(RECORD_END):
            yield "".join(lines)
            lines = []
        else:
            lines.append(line)
    if any(line.strip() for line in lines):
        yield "".join(lines)


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


SDF = Source(name="sdf", suffixes=(".sdf", ".sd"), read_stream=read_sdf, geometry="all", takes_labels=True)
