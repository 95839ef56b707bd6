"""HDF5 files of conformations: SPICE's layout, or any other in which a group is a molecule.

Every group that has a dataset of positions is a molecule: of shape [k, n, 3] (or [n, 3] for one frame), beside the
elements [n], energies [k] and the like; ``source.frames.fields`` names the datasets where they are not SPICE's. Only
plain datasets of numbers and text inside the file are read, slice by slice: no links to other files, no virtual or
external datasets, no objects.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from conformer_gen.sources.columns import number
from conformer_gen.sources.file_range import WHOLE, FileRange, even_ranges
from conformer_gen.sources.frame_files.frames import (
    MOST_ATOMS,
    Frame,
    Frames,
    bad_frame,
    clean_molecule,
    evenly_spaced,
    group_frames,
)
from conformer_gen.sources.frame_settings import FrameFormat, FramesConfig
from conformer_gen.sources.inputs.file_names import stem
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.errors import ConfigError, SourceError

if TYPE_CHECKING:
    from conformer_gen.sources.frame_files.hdf5_access import StoredDataset, StoredGroup

DEEPEST = 8  # groups in groups
FRAMES_AT_ONCE = 256
MOST_OF_A_FRAME = 3 * MOST_ATOMS  # numbers: of positions or forces


def read_hdf5(path: Path, config: SourceSettings, within: FileRange = WHOLE) -> Iterator[SourceMolecule]:
    """Yield one row for each molecule, and one for each group or frame that cannot be read.

    Args:
        path: the file.
        config: how it is read.
        within: range of what lies in the file's root, by its number in the order of names.

    Raises:
        ConfigError: h5py is not installed.
        SourceError: the file is not an HDF5 file, or no group has positions, or a label is not a number.
    """
    settings = HDF5_FORMAT.resolved(config.frames)
    with _opened(path) as (root, errors):
        found, where = False, stem(path.name)
        for name, group in _molecules(root, "", settings.fields["positions"], within=within):
            found = True
            frames = _frames(f"{where}:{name}", group, settings, config.labels, errors)
            yield from group_frames(frames, settings)
        if not found and within == WHOLE:
            wanted = settings.fields["positions"]
            raise SourceError(
                f"{path}: no group has a dataset {wanted!r}; name it with source.frames.fields.positions, and the "
                "others likewise"
            )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple["StoredGroup", tuple[type[Exception], ...]]]:
    """Open a file; return its root, and what h5py raises for damage in it."""
    try:
        from conformer_gen.sources.frame_files.hdf5_access import READ_ERRORS, StoredGroup, open_file
    except ImportError as error:
        raise ConfigError("source hdf5 needs h5py: pip install 'unimol-scale[hdf5]'") from error
    try:
        file = open_file(path)
        root = StoredGroup(file["/"].id)
    except READ_ERRORS as error:
        raise SourceError(f"{path} is not an HDF5 file, or not all of one: {error}") from error
    with file:
        yield root, READ_ERRORS


def hdf5_ranges(path: Path, config: SourceSettings, most: int) -> list[FileRange]:
    """Return ranges of what lies in the file's root; the whole file if that has no molecules in it."""
    positions = HDF5_FORMAT.resolved(config.frames).fields["positions"]
    with _opened(path) as (root, _):
        if positions in root or next(_molecules(root, "", positions), None) is None:
            return [WHOLE]
        return even_ranges(0, len(root), most)


def _molecules(
    group: "StoredGroup",
    name: str,
    positions: str,
    inside: frozenset[int] = frozenset(),
    within: FileRange = WHOLE,
) -> Iterator[tuple[str, "StoredGroup | Exception"]]:
    """Yield the groups with positions, and why a group cannot be read, in the order of their names.

    Args:
        group: to look through.
        name: of the group.
        positions: name of the dataset.
        inside: addresses of the groups that it lies in: a group may be a member of itself.
        within: range of the members of the group.
    """
    if positions in group:
        yield name or "/", group
        return
    if group.address in inside or len(inside) >= DEEPEST:
        return
    for key, member in group.groups(max(0, within.first), within.last):
        below = f"{name}/{key}".lstrip("/")
        if isinstance(member, Exception):
            yield below, member
        else:
            yield from _molecules(member, below, positions, inside | {group.address})


def _frames(
    name: str,
    group: "StoredGroup | Exception",
    settings: FramesConfig,
    labels: Mapping[str, str],
    errors: tuple[type[Exception], ...],
) -> Iterator[Frame | SourceMolecule]:
    try:
        if isinstance(group, Exception):
            raise group
        yield from _read_frames(name, group, settings, labels)
    except errors as error:
        yield bad_frame(name, "unreadable_row", f"{type(error).__name__}: {str(error)[:200]}")


def _read_frames(
    name: str, group: "StoredGroup", settings: FramesConfig, labels: Mapping[str, str]
) -> Iterator[Frame | SourceMolecule]:
    fields = settings.fields
    positions = _numbers_of(group, fields["positions"])
    shape = positions.shape if len(positions.shape) != 2 else (1, *positions.shape)
    if len(shape) != 3 or not 1 <= shape[1] <= MOST_ATOMS or shape[2] != 3:
        yield bad_frame(name, "wrong_count", f"its positions have the shape {positions.shape}")
        return
    k = shape[0]
    smiles, title = (group.text(fields.get(field, "")) for field in ("smiles", "name"))
    elements = _numbers_of(group, fields["numbers"])
    if elements.size > MOST_ATOMS:
        yield bad_frame(name, "wrong_count", f"its elements have the shape {elements.shape}")
        return
    numbers = elements.read().reshape(-1)
    wanted = {label: fields[label] for label in ("energy", "charge", *_atom_quantities(settings)) if label in fields}
    found = {label: _numbers_of(group, there) for label, there in wanted.items() if there in group}
    others = {label: _numbers_of(group, label) for label in labels}
    frames = evenly_spaced(k, settings.most)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        block = frames[first : first + FRAMES_AT_ONCE]
        shown = positions.read()[None] if positions.shape != shape else _block(positions, block, k)
        values = {label: _block(data, block, k) for label, data in found.items()}
        chosen = {label: _block(data, block, k) for label, data in others.items()}
        if len(block) == len(frames) and not chosen:
            molecule = Frames(
                id=f"{name}:{block[0] + 1}",
                numbers=numbers,
                positions=shown,
                name=title or name,
                smiles=smiles,
                energies=values.get("energy"),
                charges=values.get("charge"),
                atom_labels={label: data for label, data in values.items() if label not in ("energy", "charge")},
            )
            if (row := clean_molecule(molecule, settings)) is not None:
                yield row
                return
        for at, frame in enumerate(block.tolist()):
            own = {label: data[at] for label, data in values.items()}
            yield Frame(
                id=f"{name}:{frame + 1}",
                numbers=numbers,
                positions=shown[at],
                name=title or name,
                smiles=smiles,
                energy=_scalar(own.pop("energy", None)),
                charge=_scalar(own.pop("charge", None)),
                atom_labels=own,
                labels=tuple(number(_scalar(data[at]), f"{name}, {label!r}") for label, data in chosen.items()),
            )


def _atom_quantities(settings: FramesConfig) -> tuple[str, ...]:
    return (*settings.keep, "gradient") if "forces" in settings.keep else settings.keep


def _block(data: "StoredDataset", frames: npt.NDArray[np.int64], num_frames: int) -> npt.NDArray[Any]:
    """Return the values of some frames, which ascend; of one that is the same for all, it for each."""
    if data.shape[:1] == (num_frames,):
        if len(frames) == num_frames:
            return data.read()
        if frames[-1] - frames[0] == len(frames) - 1:
            return data.rows(slice(frames[0], frames[-1] + 1))
        return np.stack([data.rows(at) for at in frames.tolist()])  # h5py takes seconds for a list of far apart places
    if data.size != 1:
        raise ValueError(f"{data.name} has the shape {data.shape} for {num_frames} frames")
    return np.full(len(frames), data.read().item())


def _scalar(value: Any) -> Any:  # noqa: ANN401
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value


def _numbers_of(group: "StoredGroup", name: str) -> "StoredDataset":
    found = group.dataset(name)
    if found is None:
        raise KeyError(f"it has no dataset {name!r} of its own")
    found.check_numbers(MOST_OF_A_FRAME)
    return found


HDF5_FORMAT = FrameFormat(
    # Of SPICE (Eastman et al. 2023, Sci. Data 10, 11). Files name other units with source.frames.units.
    units={"positions": "bohr", "energy": "Ha", "forces": "Ha/bohr", "gradient": "Ha/bohr", "charges": "e"},
    fields={
        "numbers": "atomic_numbers",
        "positions": "conformations",
        "energy": "dft_total_energy",
        "forces": "forces",
        "gradient": "dft_total_gradient",
        "charges": "mbis_charges",
        "charge": "charge",
        "smiles": "smiles",
    },
)
HDF5 = Source(
    name="hdf5",
    suffixes=(".hdf5", ".h5"),
    read_file=read_hdf5,
    ranges=hdf5_ranges,
    read_range=read_hdf5,
    geometry="all",
    takes_labels=True,
    frames=HDF5_FORMAT,
)
