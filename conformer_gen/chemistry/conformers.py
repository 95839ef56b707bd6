"""One molecule → ``MoleculeRecord`` or ``EmbedFailure``: a pure function of molecule and seed. Imports RDKit.

Coordinates come from etkdg.py, or from the source; the record says which. Chemistry never raises here: what fails is
returned.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable
from typing import Literal, ParamSpec

import numpy as np
from rdkit import Chem, rdBase

from conformer_gen.chemistry import etkdg, prune
from conformer_gen.chemistry.graph import molecule_graph
from conformer_gen.chemistry.stereo import compare_stereo
from unimol_scale.errors import ConfigError
from unimol_scale.store.geometry_faults import Conformers, Fault, find_faults
from unimol_scale.store.schema import (
    COORDINATE_SCALE,
    INT16_LIMIT,
    PLANAR_SCALE,
    ConformerOrigin,
    ConformerStereo,
    Float32,
    Float64,
    Int64,
    MoleculeRecord,
    UInt8,
)

LARGEST_ENERGY = 1e5  # kcal/mol; a force field that ends above has atoms upon each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """How coordinates are made.

    Attributes:
        conformers: wanted for each molecule; a molecule that yields fewer, but one, is kept.
        hydrogens: keep hydrogens as atoms of the record.
        attempts: of the embedder for each conformer, from each kind of start. Every molecule of the NCI sample and of
            800 from ZINC20 that embeds at all needs 8 or fewer; a count stops hopeless ones (2 % of ZINC20, mostly
            impossible stereo of bridged rings) at the same point on every machine; 64 spent half of a build on them.
        timeout_s: seconds for embedding from one kind of start, for what a count does not stop; as long again for all
            further starts of a molecule whose atoms clash.
        max_iterations: of the force field; 200, RDKit's default, leaves most drug-sized molecules unconverged.
        stereo: "drop" leaves out conformers whose stereo is not what the SMILES gives, since their features would be
            another molecule's; it costs nothing (none of 3,846 conformers of the NCI set, ZINC20, ChEMBL, inorganics
            and macrocycles was). "keep" flags them. Geometry from a file is flagged, never dropped: there it happens
            (4 of 1,999 DFT geometries of PCQM4Mv2, double bonds in rings of 8 and more).
        energy_window: kcal/mol; conformers further above the molecule's lowest one are left out. None keeps all.
        rmsd_prune: Å; a conformer this near to one of lower energy is left out. None keeps all.
        engine: "rdkit" on CPUs, or "nvmolkit" on NVIDIA GPUs (see ``nvmolkit_engine``). "depiction" makes no conformer:
            the 2D depiction stands in as the one of each molecule, for models that read the 2D graph only.
        gpus: device numbers for nvmolkit; the pieces of a build take them in turn.
    """

    conformers: int = 1
    hydrogens: bool = False
    attempts: int = 16
    timeout_s: int = 30
    max_iterations: int = 2000
    stereo: Literal["keep", "drop"] = "drop"
    energy_window: float | None = None
    rmsd_prune: float | None = None
    engine: Literal["rdkit", "nvmolkit", "depiction"] = "rdkit"
    gpus: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not 1 <= self.conformers <= 255:
            raise ConfigError(f"conformers must be 1 to 255, got {self.conformers}")
        for name in ("attempts", "timeout_s", "max_iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("energy_window", "rmsd_prune"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be greater than 0, or null for none, got {value}")
        if not self.gpus or min(self.gpus) < 0 or len(set(self.gpus)) < len(self.gpus):
            raise ConfigError(f"gpus must be distinct device numbers from 0, at least one, got {list(self.gpus)}")
        if self.engine == "depiction" and self.conformers != 1:
            raise ConfigError(f"engine depiction makes one conformer a molecule, got conformers {self.conformers}")

    @property
    def coordinate_scale(self) -> float:
        """Å per unit of the int16 coordinates that are made: a depiction draws long chains at full length."""
        return PLANAR_SCALE if self.engine == "depiction" else COORDINATE_SCALE

    @property
    def method(self) -> str:
        """How coordinates are made, in words."""
        return "2D depiction" if self.engine == "depiction" else "ETKDGv3, MMFF94, else UFF, else as embedded"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CuratedMolecule:
    """What embedding starts from.

    Attributes:
        id: name given by the source.
        smiles: canonical SMILES; its atom order is the record's.
        key: hash of ``smiles``, 64 bits; also seeds the embedding.
        scaffold: hash of the Murcko scaffold, 64 bits.
        conformers: [k, n, 3] Å from the source, or None to make them; heavy atoms in the order of ``smiles``, then,
            where the source has all of them, the hydrogens in the order of ``AddHs``.
        origins: [k] codes of ``ConformerOrigin`` of ``conformers``.
        labels: carried along.
    """

    id: str
    smiles: str
    key: int
    scaffold: int
    conformers: Float32 | None = None
    origins: tuple[int, ...] = ()
    labels: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedFailure:
    """Why a molecule has no record: a short reason to count by, and the detail of this one."""

    reason: str
    detail: str


class _FailedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.failure = EmbedFailure(reason=reason, detail=detail)


def stable_hash(*parts: str | int) -> int:
    """Return 64 bits that depend on the parts alone, on every machine and version: BLAKE2b, little-endian."""
    text = "\n".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


Arguments = ParamSpec("Arguments")
Result = MoleculeRecord | EmbedFailure


def _returning_failures(function: Callable[Arguments, MoleculeRecord]) -> Callable[Arguments, Result]:
    @functools.wraps(function)
    def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with rdBase.BlockLogs():
            try:
                return function(*args, **kwargs)
            except _FailedError as failed:
                return failed.failure
            # RDKit reports broken invariants as RuntimeError and refused chemistry as ValueError.
            except (RuntimeError, ValueError) as error:
                return EmbedFailure(reason="rdkit_error", detail=etkdg.first_line(error))

    return wrapped


@_returning_failures
def embed_molecule(molecule: CuratedMolecule, config: EmbedConfig, seed: int) -> MoleculeRecord:
    """Make the record of one molecule.

    Conformers that are made here come in order of energy, lowest first; those from a file in the order of the file.

    Args:
        molecule: a curated molecule.
        config: how to embed.
        seed: of the build; the conformers depend on it and on the molecule, on nothing else.

    Returns:
        The record, or why there is none.
    """
    heavy, full = _parse(molecule)
    if molecule.conformers is not None:
        return _record_from_file(molecule, heavy, full, config)
    if config.engine == "depiction":
        return _record_from_depiction(molecule, heavy, full, config)
    place = functools.partial(
        etkdg.place,
        full,
        conformers=config.conformers,
        attempts=config.attempts,
        timeout_s=config.timeout_s,
        seed=stable_hash(seed, molecule.key) & 0x7FFFFFFF,
    )
    problem = place()
    if problem:
        raise _FailedError("no_conformer", f"ETKDGv3 failed from both kinds of start: {problem}")
    made, problem = _minimised(full, config), ""
    for start in etkdg.OTHER_STARTS:
        if made.relaxed is not None:
            break
        problem = problem or made.problem
        if not place(starts=(start,), timeout_s=max(1, config.timeout_s // len(etkdg.OTHER_STARTS))):
            again = _minimised(full, config)
            made = dataclasses.replace(again, embedded=made.embedded or again.embedded)
    conformers = made.relaxed or made.embedded
    if conformers is None:
        raise _clash(problem, 1 + len(etkdg.OTHER_STARTS))
    return _record_from_embedding(molecule, heavy, full, conformers, config)


@_returning_failures
def complete_molecule(molecule: CuratedMolecule, full: Chem.Mol, config: EmbedConfig) -> MoleculeRecord:
    """Make the record of a molecule that another engine embedded: minimised, compared and pruned as ever.

    Args:
        molecule: a curated molecule.
        full: what ``with_hydrogens`` made of it, now with at least one conformer.
        config: how to go on.

    Returns:
        The record, or why there is none.
    """
    heavy, _ = _parse(molecule)
    made = _minimised(full, config)
    if made.relaxed is None:
        raise _clash(made.problem, 1)
    return _record_from_embedding(molecule, heavy, full, made.relaxed, config)


def with_hydrogens(molecule: CuratedMolecule) -> Chem.Mol | None:
    """Return the molecule with hydrogens, which come last, and without conformers; None if RDKit cannot read it."""
    with rdBase.BlockLogs():
        heavy = Chem.MolFromSmiles(molecule.smiles)
        return None if heavy is None else Chem.AddHs(heavy)


def _parse(molecule: CuratedMolecule) -> tuple[Chem.Mol, Chem.Mol]:
    heavy = Chem.MolFromSmiles(molecule.smiles)
    if heavy is None:
        raise _FailedError("not_reparsed", "RDKit does not read its own canonical SMILES back")
    return heavy, Chem.AddHs(heavy)


def _record_from_file(
    molecule: CuratedMolecule, heavy: Chem.Mol, full: Chem.Mol, config: EmbedConfig
) -> MoleculeRecord:
    """Return the record of given geometry, all of it: what the file says is flagged, never dropped."""
    assert molecule.conformers is not None
    origin = np.array(molecule.origins, np.uint8)
    basis = full if config.hydrogens else heavy
    if molecule.conformers.shape[1] < basis.GetNumAtoms():
        raise _FailedError("no_hydrogens", "the source has no coordinates for every hydrogen")
    return _record(
        molecule,
        basis=basis,
        coordinates=molecule.conformers[:, : basis.GetNumAtoms()],
        origin=origin,
        stereo=compare_stereo(molecule.smiles, full, molecule.conformers, flat=origin == ConformerOrigin.FLAT),
        energy=np.full(len(origin), np.nan, np.float32),
    )


def _record_from_depiction(
    molecule: CuratedMolecule, heavy: Chem.Mol, full: Chem.Mol, config: EmbedConfig
) -> MoleculeRecord:
    basis = full if config.hydrogens else heavy
    coordinates = etkdg.depict(basis)[None]
    return _record(
        molecule,
        basis=basis,
        coordinates=coordinates,
        origin=np.array([ConformerOrigin.FLAT], np.uint8),
        stereo=compare_stereo(molecule.smiles, full, coordinates, flat=np.ones(1, bool)),
        energy=np.full(1, np.nan, np.float32),
        scale=config.coordinate_scale,
    )


@dataclasses.dataclass(frozen=True)
class _Made:
    """Conformers that were made and whose atoms keep apart: [k, n, 3] Å with all hydrogens, origins, energies."""

    coordinates: Float64
    origin: UInt8
    energy: Float32


@dataclasses.dataclass(frozen=True)
class _Minimised:
    """What one start gave: conformers with and without the force field, if any are sound, and what is wrong if none."""

    relaxed: _Made | None
    embedded: _Made | None
    problem: str


def _minimised(full: Chem.Mol, config: EmbedConfig) -> _Minimised:
    """Minimise in place, and judge the conformers before and after.

    A force field can lay atoms upon each other, as UFF does around a phosphorus with six neighbours.
    """
    before = _positions(full)
    origin, energy = etkdg.minimise(full, config.max_iterations)
    bonds = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in full.GetBonds()], np.int64)
    numbers = np.array([atom.GetAtomicNum() for atom in full.GetAtoms()], np.uint8)

    def sound(coordinates: Float64, origin: UInt8, energy: Float32) -> tuple[_Made | None, str]:
        faults = find_faults(Conformers.of_one_molecule(numbers, bonds, coordinates))
        has_energy = (np.abs(energy) < LARGEST_ENERGY) | (origin == ConformerOrigin.ETKDG)
        good = (faults.code == Fault.NONE) & has_energy
        if good.any():
            return _Made(coordinates[good], origin[good], energy[good]), ""
        return None, faults.describe(0) if faults.code[0] else f"its energy is {energy[0]:g} kcal/mol"

    relaxed, problem = sound(_positions(full), origin, energy)
    if relaxed is not None:
        return _Minimised(relaxed, None, "")
    without = np.full(len(origin), ConformerOrigin.ETKDG, np.uint8), np.full(len(origin), np.nan, np.float32)
    return _Minimised(None, sound(before, *without)[0], problem)


def _positions(full: Chem.Mol) -> Float64:
    return np.stack([conformer.GetPositions() for conformer in full.GetConformers()])


def _clash(problem: str, tries: int) -> _FailedError:
    return _FailedError("clash", f"{tries} tries gave no conformer whose atoms keep apart; in the first, {problem}")


def _record_from_embedding(
    molecule: CuratedMolecule, heavy: Chem.Mol, full: Chem.Mol, made: _Made, config: EmbedConfig
) -> MoleculeRecord:
    stereo = compare_stereo(molecule.smiles, full, made.coordinates, flat=np.zeros(len(made.coordinates), bool))
    kept = _choose(heavy, made.coordinates, stereo, made.energy, config)
    basis = full if config.hydrogens else heavy
    return _record(
        molecule,
        basis=basis,
        coordinates=made.coordinates[kept][:, : basis.GetNumAtoms()],
        origin=made.origin[kept],
        stereo=stereo[kept],
        energy=made.energy[kept],
    )


def _choose(heavy: Chem.Mol, coordinates: Float64, stereo: UInt8, energy: Float32, config: EmbedConfig) -> Int64:
    """Return the conformers to keep, in their order."""
    order = prune.by_energy(energy)
    if config.stereo == "drop":
        order = order[stereo[order] != ConformerStereo.CHANGED]
        if not len(order):
            raise _FailedError("stereo_changed", f"no conformer of {len(stereo)} has the stereo that the SMILES gives")
    if config.energy_window is not None:
        order = prune.within_window(energy, order, config.energy_window)
    if config.rmsd_prune is not None:
        order = prune.distinct(heavy, coordinates[:, : heavy.GetNumAtoms()], order, config.rmsd_prune)
    return order


def _record(
    molecule: CuratedMolecule,
    *,
    basis: Chem.Mol,
    coordinates: Float32 | Float64,
    origin: UInt8,
    stereo: UInt8,
    energy: Float32,
    scale: float = COORDINATE_SCALE,
) -> MoleculeRecord:
    graph = molecule_graph(basis)
    return MoleculeRecord(
        id=molecule.id,
        smiles=molecule.smiles,
        coordinates=_centred(coordinates, scale, "conformer"),
        planar_coordinates=_centred(etkdg.depict(basis)[:, :2], PLANAR_SCALE, "depiction"),
        conformer_origin=origin,
        conformer_stereo=stereo,
        energy=energy,
        labels=molecule.labels,
        scaffold=molecule.scaffold,
        key=molecule.key,
        **dataclasses.asdict(graph),
    )


def _centred(coordinates: Float32 | Float64, scale: float, what: str) -> Float32:
    """Return coordinates [..., n, d] around their mean over atoms, as float32 Å."""
    centred: Float32 = (coordinates - coordinates.mean(axis=-2, keepdims=True)).astype(np.float32)
    if not np.all(np.isfinite(centred)):
        raise _FailedError("not_finite", f"the {what} has coordinates that are not numbers")
    reach, limit = float(np.abs(centred).max()), (INT16_LIMIT - 1) * scale
    if reach > limit:
        raise _FailedError(
            "out_of_range", f"the {what} reaches {reach:.1f} Å from its centre; the store holds ±{limit:.1f} Å"
        )
    return centred
