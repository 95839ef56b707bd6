"""HDF5 files of conformations: SPICE's layout, or any other in which a group is a molecule.

Every group that has a dataset of positions is a molecule: of shape [k, n, 3] (or [n, 3] for one frame), beside the
elements [n], energies [k] and the like; ``source.frames.fields`` names the datasets where they are not SPICE's. Only
plain datasets of numbers and text inside the file are read, slice by slice: no links to other files, no virtual or
external datasets, no objects.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from conformer_gen.sources.columns import number
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

DEEPEST = 8  # groups in groups
FRAMES_AT_ONCE = 256
LONGEST_TEXT = 10_000
MOST_CHUNK_BYTES = 64 << 20  # that a compressed chunk may have when it is unpacked


def read_hdf5(path: Path, config: SourceSettings) -> Iterator[SourceMolecule]:
    """Yield one row for each molecule, and one for each group or frame that cannot be read.

    Raises:
        ConfigError: h5py is not installed.
        SourceError: the file is not an HDF5 file, or no group has positions, or a label is not a number.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError("source hdf5 needs h5py: pip install 'unimol-scale[hdf5]'") from error
    settings = HDF5_FORMAT.resolved(config.frames)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise SourceError(f"{path} is not an HDF5 file, or not all of one: {error}") from error
    with file:
        found = False
        for name, group, positions in _molecules(file, "", settings.fields["positions"]):
            found = True
            frames = _frames(f"{stem(path.name)}:{name}", group, positions, settings, config)
            yield from group_frames(frames, settings)
        if not found:
            wanted = settings.fields["positions"]
            raise SourceError(
                f"{path}: no group has a dataset {wanted!r}; name it with source.frames.fields.positions, and the "
                "others likewise"
            )


def _molecules(
    group: Any,  # noqa: ANN401 - of h5py
    name: str,
    positions: str,
    inside: frozenset[int] = frozenset(),
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the groups with positions and the dataset of these, in the order of their names.

    Args:
        group: to look through.
        name: of the group.
        positions: name of the dataset.
        inside: addresses of the groups that it lies in: a group may be a member of itself.
    """
    import h5py

    if (dataset := _dataset(group, positions)) is not None:
        yield name or "/", group, dataset
        return
    inside |= {h5py.h5o.get_info(group.id).addr}
    if len(inside) > DEEPEST:
        return
    for key in group:
        member = group[key] if _is_own(group, key) else None
        if isinstance(member, h5py.Group) and h5py.h5o.get_info(member.id).addr not in inside:
            yield from _molecules(member, f"{name}/{key}".lstrip("/"), positions, inside)


def _is_own(group: Any, name: str) -> bool:  # noqa: ANN401
    """Return whether a group has a member of that name that lies in the file itself."""
    import h5py

    try:  # the library's own call: what h5py wraps around it takes four times as long
        kind: int = group.id.links.get_info(name.encode("utf-8", "surrogateescape")).type
    except (KeyError, ValueError, RuntimeError):
        return False
    return bool(kind == h5py.h5l.TYPE_HARD)


def _dataset(group: Any, name: str) -> Any:  # noqa: ANN401
    """Return a dataset whose numbers lie in the file itself; None if there is no such."""
    import h5py

    if not name or not _is_own(group, name):
        return None
    found = group[name]
    return found if isinstance(found, h5py.Dataset) and not found.is_virtual and not found.external else None


def _frames(
    name: str,
    group: Any,  # noqa: ANN401
    positions: Any,  # noqa: ANN401
    settings: FramesConfig,
    config: SourceSettings,
) -> Iterator[Frame | SourceMolecule]:
    try:
        yield from _read_frames(name, group, positions, settings, config)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
        yield bad_frame(name, "unreadable_row", f"{type(error).__name__}: {str(error)[:200]}")


def _read_frames(
    name: str,
    group: Any,  # noqa: ANN401
    positions: Any,  # noqa: ANN401
    settings: FramesConfig,
    config: SourceSettings,
) -> Iterator[Frame | SourceMolecule]:
    fields = settings.fields
    _check_numbers(positions, fields["positions"])
    shape = positions.shape
    if len(shape) == 2 and positions.size <= 3 * MOST_ATOMS:
        positions, shape = positions[()][None], (1, *shape)
    if len(shape) != 3 or not 1 <= shape[1] <= MOST_ATOMS or shape[2] != 3:
        yield bad_frame(name, "wrong_count", f"its positions have the shape {shape}")
        return
    smiles, title = (_text(group, fields.get(field, "")) for field in ("smiles", "name"))
    numbers = _numbers_of(group, fields["numbers"])[: MOST_ATOMS + 1].reshape(-1)
    wanted = {label: fields[label] for label in ("energy", "charge", *_atom_quantities(settings)) if label in fields}
    found = {label: _numbers_of(group, there) for label, there in wanted.items() if there in group}
    labels = {label: _numbers_of(group, label) for label in config.labels}
    k = shape[0]
    frames = evenly_spaced(k, settings.most)
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        block = frames[first : first + FRAMES_AT_ONCE]
        shown = _block(positions, block, k)
        values = {label: _block(data, block, k) for label, data in found.items()}
        chosen = {label: _block(data, block, k) for label, data in labels.items()}
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


def _block(data: Any, frames: npt.NDArray[np.int64], num_frames: int) -> Any:  # noqa: ANN401
    """Return the values of some frames, which ascend; of one that is the same for all, it for each."""
    if data.shape[:1] == (num_frames,):
        if frames[-1] - frames[0] == len(frames) - 1:
            return data[frames[0] : frames[-1] + 1]
        return np.stack([data[at] for at in frames.tolist()])  # h5py takes seconds for a list of far apart places
    if data.size != 1:
        raise ValueError(f"{data.name} has the shape {data.shape} for {num_frames} frames")
    return np.full(len(frames), data[()].item())


def _scalar(value: Any) -> Any:  # noqa: ANN401
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value


def _text(group: Any, name: str) -> str:  # noqa: ANN401
    """Return the text of a dataset or of an attribute; "" where there is none."""
    import h5py

    if not name:
        return ""
    found = _dataset(group, name)
    if found is not None and h5py.check_string_dtype(found.dtype) is not None and found.size == 1:
        value = found[()] if found.shape == () else found[(0,) * len(found.shape)]
    else:
        value = group.attrs.get(name, "")
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and len(text) <= LONGEST_TEXT else ""


def _numbers_of(group: Any, name: str) -> Any:  # noqa: ANN401
    found = _dataset(group, name)
    if found is None:
        raise KeyError(f"it has no dataset {name!r} of its own")
    _check_numbers(found, name)
    return found


def _check_numbers(found: Any, name: str) -> None:  # noqa: ANN401
    kind = found.dtype
    if kind.kind not in "iuf":
        raise TypeError(f"{name} holds {kind}, no numbers")
    chunk = math.prod(found.chunks or (1,)) * kind.itemsize
    if chunk > MOST_CHUNK_BYTES:
        raise ValueError(f"{name} is stored in pieces of {chunk:,.0f} bytes")


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
    geometry="all",
    takes_labels=True,
    frames=HDF5_FORMAT,
)
