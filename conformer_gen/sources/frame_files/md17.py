"""MD17's trajectories (.npz): one molecule, thousands of frames with energies and forces.

Both forms: Chmiela et al. 2017 (z, R, E, F) and the revised one of Christensen and von Lilienfeld 2020
(nuclear_charges, coords, energies, forces). Arrays are read as streams out of the archive, only the frames that are
taken are kept, and objects, which would be pickles, are refused.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from conformer_gen.sources.frame_files.frames import MOST_ATOMS, Frame, bad_frame, evenly_spaced, group_frames
from conformer_gen.sources.frame_settings import FrameFormat
from conformer_gen.sources.inputs.file_names import stem
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.errors import SourceError

# What a frame has → what it is called, in either form.
NAMES = {
    "numbers": ("z", "nuclear_charges"),
    "positions": ("R", "coords"),
    "energy": ("E", "energies"),
    "forces": ("F", "forces"),
}


def read_md17(path: Path, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield the row of the molecule, with frames at equal distances in the trajectory as conformers.

    Raises:
        SourceError: the file is not an archive of NumPy's, or has no positions and elements.
    """
    settings = MD17_FORMAT.resolved(config.frames)
    try:
        with zipfile.ZipFile(path) as archive:
            yield from group_frames(_frames(stem(path.name), archive, settings.most, settings.fields), settings)
    except (zipfile.BadZipFile, NotImplementedError) as error:  # the latter of a version that zipfile does not know
        raise SourceError(f"{path} is no .npz file, or not all of one: {error}") from error


def _frames(
    name: str, archive: zipfile.ZipFile, most: int, fields: Mapping[str, str]
) -> Iterator[Frame | SourceMolecule]:
    members = set(archive.namelist())

    def member(field: str) -> str | None:
        names = (fields[field],) if field in fields else NAMES[field]
        return next((f"{one}.npy" for one in names if f"{one}.npy" in members), None)

    with contextlib.ExitStack() as stack:
        try:
            numbers, positions = member("numbers"), member("positions")
            if numbers is None or positions is None:
                raise ValueError("it has no elements, or no positions: is it MD17?")
            numbers_n = _whole(archive, numbers)
            frames = _Frames(stack.enter_context(archive.open(positions)))
            k = frames.check((len(numbers_n), 3))[0]
            others = {
                field: _Frames(stack.enter_context(archive.open(one)))
                for field in ("energy", "forces")
                if (one := member(field)) is not None
            }
            for at in evenly_spaced(k, most).tolist():
                row = {field: values.read(at) for field, values in others.items()}
                yield Frame(
                    id=f"{name}:{at + 1}",
                    numbers=numbers_n,
                    positions=frames.read(at),
                    name=name,
                    energy=row["energy"].item() if "energy" in row else None,
                    atom_labels={"forces": row["forces"]} if "forces" in row else {},
                )
        # zipfile raises NotImplementedError for a compression that it does not know.
        except (ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
            yield bad_frame(name, "unreadable_row", str(error)[:200])


class _Frames:
    """An array [k, …] in an archive, read from its beginning to its end, frame by frame."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.shape, self._dtype = _header(file)
        self._size = int(np.prod(self.shape[1:], dtype=np.float64)) * self._dtype.itemsize
        self._next = 0

    def check(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the array, whose frames are to have ``shape``."""
        if self.shape[1:] != shape:
            raise ValueError(f"an array has the shape {self.shape}, and a frame should have {shape}")
        return self.shape

    def read(self, at: int) -> npt.NDArray[Any]:
        """Return a frame that comes after those that were read."""
        if self._size > 3 * MOST_ATOMS * 8:
            raise ValueError(f"an array has the shape {self.shape}: a frame is too large")
        while self._next <= at:
            data = self._file.read(self._size)
            self._next += 1
        if len(data) != self._size:
            raise EOFError(f"an array ends before its frame {at + 1}")
        return np.frombuffer(data, self._dtype).reshape(self.shape[1:])


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject or dtype.kind not in "iuf":
        raise ValueError(f"an array holds {dtype}, no numbers")
    if fortran and len(shape) > 1:
        raise ValueError("an array is in Fortran's order; write it in C's")
    return shape, dtype


def _whole(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(name) as file:
        shape, dtype = _header(file)
        if len(shape) != 1 or not 1 <= shape[0] <= MOST_ATOMS:
            raise ValueError(f"its elements have the shape {shape}")
        return np.frombuffer(file.read(shape[0] * dtype.itemsize), dtype)


MD17_FORMAT = FrameFormat(
    units={"positions": "Å", "energy": "kcal/mol", "forces": "kcal/mol/Å"},
    theory="PBE+vdW-TS (MD17) or PBE/def2-SVP (rMD17)",
    origin="dft",
)
MD17 = Source(name="md17", suffixes=(".npz",), read_file=read_md17, geometry="all", frames=MD17_FORMAT)
