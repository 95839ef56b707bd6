"""Frames, elements with coordinates, → rows of a source: checks, units, and the conformers of one molecule together.

A frame that cannot be a conformer is a row of its own that says why. Imports NumPy only.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from conformer_gen.sources.file_range import WHOLE, FileRange
from conformer_gen.sources.frame_settings import FramesConfig
from conformer_gen.sources.frame_units import to_store
from conformer_gen.sources.molecule import Geometry, SourceMolecule
from unimol_scale.store.geometry_faults import RADII
from unimol_scale.store.schema import ATOM_LABELS, ConformerOrigin, Float32, Float64

ELEMENTS = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru
Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At
Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og
"""
SYMBOLS = tuple(ELEMENTS.split())
ATOMIC_NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS, start=1)}
MOST_ATOMS = 3_000  # of a frame; the largest molecule of a store has 1,000 heavy atoms
# Distances in units of the sum of the covalent radii: of any bond, and of one in a ring of three. Two atoms at a third
# may be as near to each other as the first, those of CBrI, but not as the second.
LONGEST_BOND, LONGEST_IN_TRIANGLE = 1.3, 1.15
LARGEST = float(np.finfo(np.float32).max)  # that a store has room for
ORIGINS = {"dft": ConformerOrigin.DFT, "file": ConformerOrigin.FILE}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """One geometry as a file has it, in the file's units.

    Attributes:
        id: of the frame: name of the file and place in it.
        numbers: [n] atomic numbers.
        positions: [n, 3].
        name: of the molecule, "" where it has none.
        smiles: of the molecule, "" where it has none.
        energy: a number; None where there is none.
        charge: net charge; None where it is not said.
        atom_labels: name → [n] or [n, w].
        labels: one number for each label of the source.
        has_cell: whether it is one cell of a crystal.
        place: number that ranges of the file count, if it can be read in ranges.
    """

    id: str
    numbers: npt.ArrayLike
    positions: npt.ArrayLike
    name: str = ""
    smiles: str = ""
    energy: Any = None
    charge: Any = None
    atom_labels: dict[str, Any] = dataclasses.field(default_factory=dict)
    labels: tuple[float, ...] = ()
    has_cell: bool = False
    place: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frames:
    """All frames of one molecule as arrays, in the file's units.

    Attributes:
        id: of the first frame.
        numbers: [n] atomic numbers.
        positions: [k, n, 3].
        name, smiles: of the molecule, "" where it has none.
        energies: [k]; None where there are none.
        charges: [k] net charge; None where it is not said.
        atom_labels: name → [k, n] or [k, n, w].
    """

    id: str
    numbers: npt.NDArray[Any]
    positions: npt.NDArray[Any]
    name: str
    smiles: str
    energies: npt.NDArray[Any] | None
    charges: npt.NDArray[Any] | None
    atom_labels: dict[str, npt.NDArray[Any]]


def bad_frame(name: str, reason: str, problem: str) -> SourceMolecule:
    """Return the row of a frame that cannot be taken."""
    return SourceMolecule(id=name, reason=reason, problem=f"frame {name}: {problem}")


def relative_distances(numbers: npt.NDArray[np.integer], positions: Float64) -> Float64:
    """Return the distances [n, n] in units of the sum of the covalent radii, infinite on the diagonal."""
    between = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    radii = RADII[numbers]
    relative: Float64 = between / (radii[:, None] + radii[None])
    np.fill_diagonal(relative, np.inf)
    return relative


def neighbours(numbers: npt.NDArray[np.integer], positions: Float64) -> npt.NDArray[np.bool_]:
    """Return which atoms [n, n] are near enough to be bonded, whatever bonds their elements can have."""
    relative = relative_distances(numbers, positions)
    near = relative < LONGEST_IN_TRIANGLE
    shared = near.astype(np.float32) @ near.astype(np.float32) > 0
    bonded: npt.NDArray[np.bool_] = near | ((relative < LONGEST_BOND) & ~shared)
    return bonded


def evenly_spaced(count: int, most: int) -> npt.NDArray[np.int64]:
    """Return the numbers of at most so many of the frames 0 to ``count`` - 1, ascending, the first among them."""
    if count <= most:
        return np.arange(count)
    return np.arange(most) * count // most


def group_frames(
    frames: Iterable[Frame | SourceMolecule], config: FramesConfig, within: FileRange = WHOLE
) -> Iterator[SourceMolecule]:
    """Yield a row for each molecule, with its frames as conformers, and one for each frame that cannot be taken.

    A range of a file begins with the first frame, after one of its own, that cannot be of the same molecule as the
    frame before it, and ends before the one with which the next range begins. So the rows of all ranges are those of
    the whole file.

    Args:
        frames: in the order of the file, from the beginning of the range to the end of the file; those that the reader
            could not read are rows already.
        config: resolved by the format of the files.
        within: range of the file.
    """
    scale = {quantity: to_store(quantity, unit) for quantity, unit in config.units.items()}
    group: _Group | None = None
    borders = _Borders(within, config)
    for frame in frames:
        checked = frame if isinstance(frame, SourceMolecule) else _checked(frame, config, scale)
        if isinstance(checked, SourceMolecule):
            if borders.begun:
                yield checked
            continue
        borders.follow(checked)
        if borders.ended:
            break
        if not borders.begun:
            continue
        if group is None or not group.takes(checked):
            if group is not None:
                yield group.row()
            group = _Group(checked, config)
        elif (earlier := group.add(checked)) is not None:
            yield bad_frame(checked.frame.id, "duplicate_frame", f"it has the coordinates of frame {earlier}")
    if group is not None:
        yield group.row()


def clean_molecule(frames: Frames, config: FramesConfig) -> SourceMolecule | None:
    """Return the row that ``group_frames`` would make of frames with which nothing is wrong; None if anything is.

    All frames are looked at together, which takes a tenth of the time.

    Args:
        frames: of one molecule.
        config: resolved by the format of the file.
    """
    kind = config.group or ("name" if frames.name else "smiles")
    numbers, k = frames.numbers, len(frames.positions)
    n = len(numbers)
    if kind not in ("name", "smiles") or not getattr(frames, kind) or not 1 <= k <= config.most:
        return None
    if numbers.dtype.kind not in "iu" or frames.positions.shape != (k, n, 3) or not 1 <= n <= MOST_ATOMS:
        return None
    scale = {quantity: to_store(quantity, unit) for quantity, unit in config.units.items()}
    positions = frames.positions.astype(np.float64) * scale["positions"]
    energies = np.full(k, math.nan) if frames.energies is None else frames.energies.astype(np.float64)
    charges = np.zeros(k) if frames.charges is None else frames.charges.astype(np.float64)
    if energies.shape != (k,) or charges.shape != (k,) or charges[0] % 1 or (charges != charges[0]).any():
        return None
    known = numbers.min() >= 1 and numbers.max() <= len(SYMBOLS)
    finite = _is_storable(positions) and (frames.energies is None or _is_storable(energies * scale["energy"]))
    if not known or not finite or len({one.tobytes() for one in positions}) < k:
        return None
    try:
        labels = {name: _labels_of_all(frames, name, scale) for name in config.keep}
    except _RefusedError:
        return None
    assert config.origin is not None, "resolved"
    return SourceMolecule(
        id=frames.name or frames.id,
        smiles=frames.smiles,
        geometry=Geometry(
            symbols=tuple(SYMBOLS[number - 1] for number in numbers.tolist()),
            positions=positions.astype(np.float32),
            origins=(ORIGINS[config.origin],) * k,
            energies=() if frames.energies is None else tuple((energies * scale["energy"]).tolist()),
            charge=config.charge if frames.charges is None else int(charges[0]),
            atom_labels=labels,
        ),
    )


def _labels_of_all(frames: Frames, name: str, scale: dict[str, float]) -> Float32:
    """Return a label of the atoms of all frames, [k, n, w]."""
    k, n = frames.positions.shape[:2]
    values = {label: each.reshape(k * n, -1) for label, each in frames.atom_labels.items() if each.shape[:2] == (k, n)}
    if len(values) < len(frames.atom_labels):
        raise _RefusedError("wrong_count", f"its labels of atoms are not of {k} frames of {n} atoms")
    whole = Frame(id=frames.id, numbers=frames.numbers, positions=frames.positions, atom_labels=values)
    return _atom_label(whole, name, k * n, scale).reshape(k, n, -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Checked:
    """A frame in the store's units."""

    frame: Frame
    numbers: npt.NDArray[np.int64]
    positions: Float64
    energy: float
    charge: int | None
    atom_labels: dict[str, Float32]


def _checked(frame: Frame, config: FramesConfig, scale: dict[str, float]) -> _Checked | SourceMolecule:
    try:
        numbers = np.asarray(frame.numbers)
        positions = np.asarray(frame.positions, np.float64) * scale["positions"]
        n = len(numbers)
        if numbers.ndim != 1 or numbers.dtype.kind not in "iu" or positions.shape != (n, 3) or not n:
            raise _RefusedError("wrong_count", f"it has {n} elements and positions of shape {positions.shape}")
        if n > MOST_ATOMS:
            raise _RefusedError("too_many_atoms", f"it has {n:,} atoms, at most {MOST_ATOMS:,} are read")
        if numbers.min() < 1 or numbers.max() > len(SYMBOLS):
            raise _RefusedError("unknown_element", "it has an atomic number that is not an element's")
        if not _is_storable(positions):
            raise _RefusedError("no_geometry", "a coordinate is not a finite number, or a huge one")
        if frame.has_cell and config.cell == "refuse":
            raise _RefusedError("unit_cell", "it is a cell of a crystal; source.frames.cell=ignore takes it without")
        return _Checked(
            frame=frame,
            numbers=numbers.astype(np.int64),
            positions=positions,
            energy=_energy(frame.energy, scale.get("energy", math.nan)),
            charge=config.charge if frame.charge is None else _whole(frame.charge),
            atom_labels={name: _atom_label(frame, name, n, scale) for name in config.keep},
        )
    except _RefusedError as error:
        return bad_frame(frame.id, error.reason, str(error))
    except (TypeError, ValueError, OverflowError) as error:
        return bad_frame(frame.id, "unreadable_row", str(error)[:200])


class _Borders:
    """Follows the frames of a file, and tells whether those of a range have begun and ended."""

    def __init__(self, within: FileRange, config: FramesConfig) -> None:
        self._within, self._config = within, config
        self._previous: _Checked | None = None
        self.begun, self.ended = within.begins_file, False

    def follow(self, frame: _Checked) -> None:
        """Take the next frame into account."""
        before, self._previous = self._previous, frame
        if before is None:
            return
        beyond = before.frame.place >= self._within.last
        if beyond and not self.begun:  # none of the range's frames begins a molecule for certain
            self.ended = True
        elif (beyond or not self.begun) and _are_apart(before, frame, self._config):
            self.begun, self.ended = True, self.begun


def _are_apart(first: _Checked, second: _Checked, config: FramesConfig) -> bool:
    """Return whether two frames, one after another, are of different molecules whatever frames came before them."""
    if not np.array_equal(first.numbers, second.numbers) or first.charge != second.charge:
        return True
    kinds = ("name", "smiles", "graph") if config.group is None else (config.group,)
    return not any(_share(kind, first, second) for kind in kinds)


def _share(kind: str, first: _Checked, second: _Checked) -> bool:
    if kind == "none":
        return False
    if kind == "graph":
        bonded = neighbours(first.numbers, first.positions)
        return np.array_equal(bonded, neighbours(second.numbers, second.positions))
    shared: str = getattr(first.frame, kind)
    return bool(shared) and shared == getattr(second.frame, kind)


class _RefusedError(Exception):
    def __init__(self, reason: str, problem: str) -> None:
        super().__init__(problem)
        self.reason = reason


def _is_storable(values: Float64) -> bool:
    """Return whether all are finite numbers, of single precision too."""
    return bool((np.abs(values) <= LARGEST).all())


def _energy(value: Any, scale: float) -> float:  # noqa: ANN401 - whatever a file has
    if value is None:
        return math.nan
    if isinstance(value, str | bytes | bool) or not abs(float(value) * scale) <= LARGEST:
        raise _RefusedError("energy_is_no_number", f"its energy is {value!r}, which is no number, or a huge one")
    return float(value) * scale


def _whole(value: Any) -> int:  # noqa: ANN401
    if isinstance(value, str | bytes) or float(value) != round(float(value)):
        raise _RefusedError("charge_is_no_number", f"its net charge is {value!r}, which is not a whole number")
    return round(float(value))


def _atom_label(frame: Frame, name: str, num_atoms: int, scale: dict[str, float]) -> Float32:
    width = ATOM_LABELS[name].width
    value = frame.atom_labels.get(name)
    factor = scale.get(name, 1.0)
    if value is None and name == "forces" and frame.atom_labels.get("gradient") is not None:
        value, factor = frame.atom_labels["gradient"], -scale["gradient"]
    if value is None:
        return np.full((num_atoms, width), np.nan, np.float32)
    array = np.asarray(value, np.float64) * factor
    if array.size != num_atoms * width or array.shape[0] != num_atoms:
        raise _RefusedError("wrong_count", f"its {name} have the shape {array.shape} and it has {num_atoms} atoms")
    if (np.abs(array) > LARGEST).any():  # NaN is one that is missing
        raise _RefusedError("not_finite", f"its {name} are not finite numbers, or huge ones")
    return array.reshape(num_atoms, width).astype(np.float32)


class _Group:
    """The frames of one molecule, one after another."""

    def __init__(self, first: _Checked, config: FramesConfig) -> None:
        self._config = config
        self._kind = config.group or _kind_of(first.frame)
        self._frames: list[_Checked] = []
        self._seen: dict[bytes, str] = {}
        self._bonded: npt.NDArray[np.bool_] | None = None
        self.add(first)

    def takes(self, frame: _Checked) -> bool:
        """Return whether a frame is a conformer of this molecule, and there is room for it."""
        first = self._frames[0]
        if len(self._frames) >= self._config.most or self._kind == "none":
            return False
        if not np.array_equal(frame.numbers, first.numbers) or frame.charge != first.charge:
            return False
        if self._kind == "graph":
            if self._bonded is None:
                self._bonded = neighbours(first.numbers, first.positions)
            return np.array_equal(neighbours(frame.numbers, frame.positions), self._bonded)
        return _share(self._kind, first, frame)

    def add(self, frame: _Checked) -> str | None:
        """Add a frame, unless one with the same coordinates is there, whose id is returned."""
        key = frame.positions.tobytes()
        if key in self._seen:
            return self._seen[key]
        self._seen[key] = frame.frame.id
        self._frames.append(frame)
        return None

    def row(self) -> SourceMolecule:
        """Return the molecule; labels are those of the frame with the lowest energy."""
        first, frames = self._frames[0], self._frames
        energies = tuple(frame.energy for frame in frames)
        lowest = frames[int(np.argmin(np.nan_to_num(energies, nan=np.inf)))]
        assert self._config.origin is not None, "resolved"
        return SourceMolecule(
            id=first.frame.name or first.frame.id,
            smiles=first.frame.smiles,
            geometry=Geometry(
                symbols=tuple(SYMBOLS[number - 1] for number in first.numbers.tolist()),
                positions=np.stack([frame.positions for frame in frames]).astype(np.float32),
                origins=(ORIGINS[self._config.origin],) * len(frames),
                energies=() if np.isnan(energies).all() else energies,
                charge=first.charge,
                atom_labels={
                    name: np.stack([frame.atom_labels[name] for frame in frames]) for name in self._config.keep
                },
            ),
            labels=lowest.frame.labels,
        )


def _kind_of(frame: Frame) -> str:
    return "name" if frame.name else "smiles" if frame.smiles else "graph"
