"""One molecule → ``MoleculeRecord`` or ``ConformerFailure``: a pure function of molecule and seed. Imports RDKit.

Coordinates come from rdkit_engine.py or from the source; the record says which. Chemistry errors are never raised here
but returned as failures.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import ParamSpec

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdMolAlign

from conformer_gen.chemistry import rdkit_engine
from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.graph import molecule_graph
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.chemistry.stereo import compare_stereo
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

LARGEST_ENERGY = 1e5  # kcal/mol; a higher force-field energy means overlapping atoms
# Symmetry mappings of a molecule onto itself that are tried for each pair of conformers. Few drugs have more; a
# molecule with three tert-butyl groups has 1,296, and comparing its conformers would cost more than making them. Beyond
# the limit an RMSD may come out too large, which keeps a conformer that could have been left out.
MAX_MATCHES = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class CuratedMolecule:
    """A molecule for which conformers are to be made.

    Attributes:
        id: name from the source.
        smiles: canonical SMILES; its atom order is the record's.
        key: hash of ``smiles``, 64 bits; also seeds its conformers.
        scaffold: hash of the Murcko scaffold, 64 bits.
        conformers: [k, n, 3] Å from the source, or None to make them; heavy atoms in the order of ``smiles``, then, if
            the source has all of them, the hydrogens in the order of ``AddHs``.
        origins: [k] codes of ``ConformerOrigin``, one for each of ``conformers``.
        labels: passed on to the record.
        energies: [k] kcal/mol of ``conformers`` relative to the lowest; NaN where the source has none; empty if it has
            none at all.
        atom_labels: name → [k, n, w] of the atoms of ``conformers``.
    """

    id: str
    smiles: str
    key: int
    scaffold: int
    conformers: Float32 | None = None
    origins: tuple[int, ...] = ()
    labels: tuple[float, ...] = ()
    energies: tuple[float, ...] = ()
    atom_labels: Mapping[str, Float32] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConformerFailure:
    """Why a molecule has no record: a short reason for counting, and the details of this case."""

    reason: str
    detail: str


class _FailedError(Exception):
    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.failure = ConformerFailure(reason=reason, detail=detail)


Arguments = ParamSpec("Arguments")
Result = MoleculeRecord | ConformerFailure


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
                return ConformerFailure(reason="rdkit_error", detail=rdkit_engine.first_line(error))

    return wrapped


@_returning_failures
def generate_conformers(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> MoleculeRecord:
    """Make the record of one molecule.

    Conformers made here are in order of energy, lowest first; conformers from a file keep the file's order.

    Args:
        molecule: a curated molecule.
        config: how to make conformers.
        seed: seed of the build; the conformers depend only on it and on the molecule.

    Returns:
        The record, or why there is none.
    """
    heavy, full = _parse(molecule)
    if molecule.conformers is not None:
        return _record_from_file(molecule, heavy, full, config)
    if config.engine == "depiction":
        return _record_from_depiction(molecule, heavy, full, config)
    place = functools.partial(
        rdkit_engine.place,
        full,
        conformers=config.count,
        attempts=config.attempts,
        timeout_s=config.timeout_s,
        seed=stable_hash(seed, molecule.key) & 0x7FFFFFFF,
    )
    problem = place()
    if problem:
        raise _FailedError("no_conformer", f"ETKDGv3 failed from both kinds of start: {problem}")
    made, problem = _minimised(full, config), ""
    for start in rdkit_engine.OTHER_STARTS:
        if made.relaxed is not None:
            break
        problem = problem or made.problem
        if not place(starts=(start,), timeout_s=max(1, config.timeout_s // len(rdkit_engine.OTHER_STARTS))):
            again = _minimised(full, config)
            made = dataclasses.replace(again, unrelaxed=made.unrelaxed or again.unrelaxed)
    conformers = made.relaxed or made.unrelaxed
    if conformers is None:
        raise _clash(problem, 1 + len(rdkit_engine.OTHER_STARTS))
    return _record_of_made(molecule, heavy, full, conformers, config)


@_returning_failures
def complete_molecule(molecule: CuratedMolecule, full: Chem.Mol, config: ConformerConfig) -> MoleculeRecord:
    """Make the record of a molecule whose conformers come from another engine: minimise, compare and prune as usual.

    Args:
        molecule: a curated molecule.
        full: the molecule from ``with_hydrogens``, now with at least one conformer.
        config: how to continue.

    Returns:
        The record, or why there is none.
    """
    heavy, _ = _parse(molecule)
    made = _minimised(full, config)
    if made.relaxed is None:
        raise _clash(made.problem, 1)
    return _record_of_made(molecule, heavy, full, made.relaxed, config)


def with_hydrogens(molecule: CuratedMolecule) -> Chem.Mol | None:
    """Return the molecule with its hydrogens last and without conformers; None if RDKit cannot read it."""
    with rdBase.BlockLogs():
        heavy = Chem.MolFromSmiles(molecule.smiles)
        return None if heavy is None else Chem.AddHs(heavy)


def _parse(molecule: CuratedMolecule) -> tuple[Chem.Mol, Chem.Mol]:
    heavy = Chem.MolFromSmiles(molecule.smiles)
    if heavy is None:
        raise _FailedError("not_reparsed", "RDKit cannot read back its own canonical SMILES")
    return heavy, Chem.AddHs(heavy)


def _record_from_file(
    molecule: CuratedMolecule, heavy: Chem.Mol, full: Chem.Mol, config: ConformerConfig
) -> MoleculeRecord:
    """Return the record of a given geometry: differing stereo is flagged, and only ``from_file`` leaves any out."""
    assert molecule.conformers is not None
    basis = full if config.hydrogens else heavy
    n = basis.GetNumAtoms()
    if molecule.conformers.shape[1] < n:
        raise _FailedError("no_hydrogens", "the source has no coordinates for every hydrogen")
    energy = np.array(molecule.energies or [np.nan] * len(molecule.origins), np.float32)
    kept = np.arange(len(energy))
    if config.from_file is not None:
        order = _by_energy(energy)
        kept = _near_and_distinct(heavy, molecule.conformers, energy, order, config)[: config.from_file]
    conformers, origin = molecule.conformers[kept], np.array(molecule.origins, np.uint8)[kept]
    record = _record(
        molecule,
        basis=basis,
        coordinates=conformers[:, :n],
        origin=origin,
        stereo=compare_stereo(molecule.smiles, full, conformers, flat=origin == ConformerOrigin.FLAT),
        energy=energy[kept],
    )
    atom_labels = {name: values[kept][:, :n] for name, values in molecule.atom_labels.items()}
    return dataclasses.replace(record, atom_labels=atom_labels)


def _record_from_depiction(
    molecule: CuratedMolecule, heavy: Chem.Mol, full: Chem.Mol, config: ConformerConfig
) -> MoleculeRecord:
    basis = full if config.hydrogens else heavy
    coordinates = rdkit_engine.depict(basis)[None]
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
    """Conformers without clashing atoms: [k, n, 3] Å with all hydrogens, origins, energies."""

    coordinates: Float64
    origin: UInt8
    energy: Float32


@dataclasses.dataclass(frozen=True)
class _Minimised:
    """Result of one start: sound conformers before and after minimisation, or what is wrong if there are none."""

    relaxed: _Made | None
    unrelaxed: _Made | None
    problem: str


def _minimised(full: Chem.Mol, config: ConformerConfig) -> _Minimised:
    """Minimise in place, and check the conformers before and after.

    A force field can push atoms onto each other, as UFF does around a phosphorus with six neighbours.
    """
    before = _positions(full)
    origin, energy = rdkit_engine.minimise(full, config.max_iterations)
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
    return _FailedError("clash", f"{tries} tries gave no conformer without clashing atoms; in the first, {problem}")


def _record_of_made(
    molecule: CuratedMolecule, heavy: Chem.Mol, full: Chem.Mol, made: _Made, config: ConformerConfig
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


def _choose(heavy: Chem.Mol, coordinates: Float64, stereo: UInt8, energy: Float32, config: ConformerConfig) -> Int64:
    """Return the indices of the conformers to keep, in order."""
    order = _by_energy(energy)
    if config.stereo == "drop":
        order = order[stereo[order] != ConformerStereo.CHANGED]
        if not len(order):
            raise _FailedError(
                "stereo_changed", f"none of {len(stereo)} conformers has the stereo that the SMILES specifies"
            )
    return _near_and_distinct(heavy, coordinates, energy, order, config)


def _near_and_distinct(
    heavy: Chem.Mol, coordinates: Float32 | Float64, energy: Float32, order: Int64, config: ConformerConfig
) -> Int64:
    """Return those of ``order`` that are within the energy window and not near an earlier one."""
    if config.energy_window is not None:
        order = _within_window(energy, order, config.energy_window)
    if config.rmsd_prune is not None:
        order = _distinct(heavy, coordinates[:, : heavy.GetNumAtoms()], order, config.rmsd_prune)
    return order


def _by_energy(energy: Float32) -> Int64:
    """Return the conformers in ascending order of energy [k]; those without an energy come last, in their own order."""
    return np.argsort(energy, kind="stable")


def _within_window(energy: Float32, order: Int64, window: float) -> Int64:
    """Return those of ``order`` whose energy is unknown or at most ``window`` kcal/mol above the lowest."""
    if np.all(np.isnan(energy[order])):
        return order
    return order[~(energy[order] > np.nanmin(energy[order]) + window)]


def _distinct(heavy: Chem.Mol, coordinates: Float32 | Float64, order: Int64, threshold: float) -> Int64:
    """Return, greedily, those of ``order`` that are further than ``threshold`` from every conformer kept before them.

    Args:
        heavy: the molecule without hydrogens.
        coordinates: [k, n, 3] Å of its atoms.
        order: all or some of the k conformers, in the order in which to consider them.
        threshold: Å, root-mean-square deviation after the best alignment over the molecule's symmetries (RDKit's
            GetBestRMS, at most ``MAX_MATCHES`` of them).
    """
    carrier = Chem.Mol(heavy)
    carrier.RemoveAllConformers()
    for positions in coordinates[order]:
        conformer = Chem.Conformer(heavy.GetNumAtoms())
        conformer.SetPositions(np.ascontiguousarray(positions, np.float64))
        carrier.AddConformer(conformer, assignId=True)
    distance = np.zeros((len(order), len(order)))
    distance[np.tril_indices(len(order), -1)] = rdMolAlign.GetAllConformerBestRMS(
        carrier, numThreads=1, maxMatches=MAX_MATCHES
    )
    kept: list[int] = []
    for at in range(len(order)):
        if all(distance[at, earlier] > threshold for earlier in kept):
            kept.append(at)
    return order[kept]


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
        planar_coordinates=_centred(rdkit_engine.depict(basis)[:, :2], PLANAR_SCALE, "depiction"),
        conformer_origin=origin,
        conformer_stereo=stereo,
        energy=energy,
        labels=molecule.labels,
        scaffold=molecule.scaffold,
        key=molecule.key,
        **dataclasses.asdict(graph),
    )


def _centred(coordinates: Float32 | Float64, scale: float, what: str) -> Float32:
    """Return coordinates [..., n, d] centred on their mean over atoms, as float32 Å."""
    centred: Float32 = (coordinates - coordinates.mean(axis=-2, keepdims=True)).astype(np.float32)
    if not np.all(np.isfinite(centred)):
        raise _FailedError("not_finite", f"the {what} has coordinates that are not numbers")
    reach, limit = float(np.abs(centred).max()), (INT16_LIMIT - 1) * scale
    if reach > limit:
        raise _FailedError(
            "out_of_range", f"the {what} extends {reach:.1f} Å from its centre; the store can hold ±{limit:.1f} Å"
        )
    return centred
