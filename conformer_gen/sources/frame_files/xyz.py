"""XYZ files: plain or extended, with any number of frames one after another.

A frame is a line with the number of atoms, a comment line, and one line per atom. In the extended form the comment has
``key=value`` pairs, among them ``Properties``, which describes the columns, and ``Lattice``.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from conformer_gen.sources.columns import number
from conformer_gen.sources.file_range import FileRange
from conformer_gen.sources.frame_files.frames import ATOMIC_NUMBERS, MOST_ATOMS, Frame, bad_frame, group_frames
from conformer_gen.sources.frame_files.xyz_places import COUNT, find_frames
from conformer_gen.sources.frame_settings import FrameFormat, FramesConfig
from conformer_gen.sources.inputs.text_ranges import text_ranges
from conformer_gen.sources.inputs.text_streams import TextStream
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings

PAIR = re.compile(r"""([A-Za-z_][\w.-]*)\s*=\s*("(?:[^"\\]|\\.)*"|'[^']*'|\{[^}]*\}|\S+)""")
PLAIN_COLUMNS = "species:S:1:pos:R:3"
ISOTOPES_OF_HYDROGEN = {"D": 1, "T": 1}
LARGEST_WIDTH = 1_000


def read_xyz(stream: TextStream, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each molecule, with its frames as conformers, and one for each frame that cannot be read.

    Raises:
        SourceError: a label is not a number.
    """
    settings = XYZ_FORMAT.resolved(config.frames)
    return group_frames(_frames(stream, settings, config.labels), settings, stream.within)


def xyz_ranges(path: Path, config: SourceSettings, most: int) -> list[FileRange]:
    """Return ranges of the frames."""
    return text_ranges(path, most, find_frames)


def _frames(stream: TextStream, settings: FramesConfig, labels: Mapping[str, str]) -> Iterator[Frame | SourceMolecule]:
    lines, at, count = iter(stream.text), max(0, stream.within.first), None
    lost = False  # between a damaged frame and the next line with a number of atoms
    while (line := count or next(lines, None)) is not None:
        count = None
        match = COUNT.fullmatch(line)
        if match is None:
            if line.strip() and not lost:
                at, lost = at + 1, True
                problem = f"it begins with {line.strip()[:50]!r}, not a number of atoms"
                yield bad_frame(f"{stream.stem}:{at}", "wrong_count", problem)
            continue
        at, lost = at + 1, False
        name, size = f"{stream.stem}:{at}", int(match.group(1))
        if not 1 <= size <= MOST_ATOMS:
            lost = True
            yield bad_frame(name, "wrong_count", f"it has {size:,} atoms; 1 to {MOST_ATOMS:,} are read")
            continue
        comment = next(lines, "")
        atoms: list[list[str]] = []
        while len(atoms) < size and (line := next(lines, None)) is not None:
            if COUNT.fullmatch(line):
                count = line  # the next frame begins
                break
            atoms.append(line.split())
        if len(atoms) < size:
            yield bad_frame(name, "wrong_count", f"it announces {size} atoms but has {len(atoms)}")
            continue
        yield _frame(name, at - 1, comment, atoms, settings, labels)


def _frame(
    name: str, place: int, comment: str, atoms: list[list[str]], settings: FramesConfig, labels: Mapping[str, str]
) -> Frame | SourceMolecule:
    pairs = {key: _unquoted(value) for key, value in PAIR.findall(comment)}
    fields = settings.fields
    chosen = tuple(number(pairs.get(label), f"frame {name}, {label!r}") for label in labels)
    try:
        columns = _columns(pairs.get("Properties", PLAIN_COLUMNS))
        species, _ = columns[fields["numbers"]]
        first, _ = columns[fields["positions"]]
        numbers = [_atomic_number(atom[species]) for atom in atoms]
        positions = [[float(atom[first]), float(atom[first + 1]), float(atom[first + 2])] for atom in atoms]
        has_cell = any(float(value) for value in pairs.get("Lattice", "").split()) and "T" in pairs.get("pbc", "T")
        atom_labels = {
            label: [[float(value) for value in atom[slice(*columns[fields[label]])]] for atom in atoms]
            for label in settings.keep
            if fields[label] in columns
        }
    except (KeyError, IndexError, ValueError) as error:
        return bad_frame(name, "unreadable_row", f"its atoms cannot be read: {error}")
    return Frame(
        id=name,
        numbers=numbers,
        positions=positions,
        name=pairs.get(fields["name"], ""),
        smiles=pairs.get(fields["smiles"], ""),
        energy=_number(pairs.get(fields["energy"])),
        charge=_number(pairs.get(fields["charge"])),
        atom_labels=atom_labels,
        labels=chosen,
        has_cell=has_cell,
        place=place,
    )


def _unquoted(value: str) -> str:
    if value[0] in "\"'{" and len(value) > 1:
        return value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    return value


def _columns(text: str) -> dict[str, tuple[int, int]]:
    """Return the columns [first, last) of each property of the atoms."""
    columns: dict[str, tuple[int, int]] = {}
    parts, first = text.split(":"), 0
    for name, _, width in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if not 1 <= int(width) <= LARGEST_WIDTH:
            raise ValueError(f"the property {name[:50]!r} has {width} columns")
        columns[name] = first, first + int(width)
        first += int(width)
    return columns


def _atomic_number(text: str) -> int:
    """Return the atomic number of an element symbol; 0 if it is not one."""
    symbol = text.capitalize()
    return int(text) if text.isdecimal() else ATOMIC_NUMBERS.get(symbol) or ISOTOPES_OF_HYDROGEN.get(symbol, 0)


def _number(text: str | None) -> Any:  # noqa: ANN401 - what is not a number is refused with the frame
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


XYZ_FORMAT = FrameFormat(
    # Names that ASE writes.
    units={"positions": "Å", "energy": "eV", "forces": "eV/Å", "charges": "e"},
    fields={
        **{name: name for name in ("energy", "forces", "charges", "charge", "smiles", "name")},
        **{"numbers": "species", "positions": "pos"},
    },
)
XYZ = Source(
    name="xyz",
    suffixes=(".xyz", ".extxyz"),
    read_stream=read_xyz,
    ranges=xyz_ranges,
    geometry="all",
    takes_labels=True,
    frames=XYZ_FORMAT,
)
