"""Molecules with frames, and files of them as their libraries write them: ASE, h5py, msgpack, NumPy."""

import zlib
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from conformer_gen.sources.reader import check_source, read_source

SMILES = ("CCO", "NCC(=O)O", "c1ccoc1")
BOHR = 0.529177210903
HARTREE = 627.5094740631  # kcal/mol
EV = 23.060547830619
FRAMES = 3
MOL2_WATER = """@<TRIPOS>MOLECULE
water
3 2
SMALL
NO_CHARGES
@<TRIPOS>ATOM
1 O 0.0 0.0 0.119 O.3
2 H 0.0 0.763 -0.477 H
3 H 0.0 -0.763 -0.477 H
@<TRIPOS>BOND
1 1 2 1
2 1 3 1
"""


def placed(smiles: str, frames: int = FRAMES, seed: int = 1) -> Chem.Mol:
    """Return a molecule with hydrogens and one geometry, a little moved in each of its frames."""
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(molecule, randomSeed=seed) == 0
    rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    start, random = molecule.GetConformer().GetPositions(), np.random.default_rng(seed)
    molecule.RemoveAllConformers()
    for _ in range(frames):
        conformer = Chem.Conformer(molecule.GetNumAtoms())
        conformer.SetPositions(start + random.normal(0, 0.02, start.shape))
        molecule.AddConformer(conformer, assignId=True)
    return molecule


def positions(molecule: Chem.Mol) -> np.ndarray:
    return np.stack([conformer.GetPositions() for conformer in molecule.GetConformers()])


def numbers(molecule: Chem.Mol) -> list[int]:
    return [atom.GetAtomicNum() for atom in molecule.GetAtoms()]


def forces(molecule: Chem.Mol) -> np.ndarray:
    """Forces that tell frame and atom: [k, n, 3]."""
    k, n = molecule.GetNumConformers(), molecule.GetNumAtoms()
    return np.arange(k * n * 3, dtype=np.float64).reshape(k, n, 3)


def ase_frames(*smiles: str, **info: object) -> list[Any]:
    """Frames as ASE's Atoms with energies, which fall from frame to frame, and forces."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    frames = []
    for one in smiles:
        molecule = placed(one)
        for at in range(FRAMES):
            atoms = Atoms(numbers(molecule), positions(molecule)[at], info=dict(info))
            atoms.calc = SinglePointCalculator(atoms, energy=-100.0 - at, forces=forces(molecule)[at])
            frames.append(atoms)
    return frames


def write_aselmdb(path: Path, frames: list[Any]) -> None:
    """Write as ase-db-backends does: ASE's JSON of a row, compressed, under its number."""
    from ase.db.row import AtomsRow
    from ase.io.jsonio import encode

    values = {b"nextid": len(frames) + 1, b"deleted_ids": []}
    for at, atoms in enumerate(frames, start=1):
        row = AtomsRow(atoms)
        fields = {key: row[key] for key in row.__dict__ if key[0] != "_" and key not in row._keys and key != "id"}
        fields["cell"] = np.asarray(fields["cell"])
        values[str(at).encode()] = {**fields, "data": dict(atoms.info)}
    write_lmdb(path, {key: zlib.compress(encode(value).encode()) for key, value in values.items()})


def write_lmdb(path: Path, values: dict[bytes, bytes]) -> None:
    environment = lmdb.open(str(path), subdir=False, lock=False, map_size=64 << 20)
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key, value)
    environment.close()


def write_small(path: Path) -> str:
    """Write some molecules in the format of the file's name, and return the source that reads it."""
    from ase.db import connect
    from ase.io import write

    frames, molecule = ase_frames(*SMILES), placed("CCO")
    if path.suffix == ".xyz":
        write(path, frames, format="extxyz")
    elif path.suffix == ".db":
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms)
    elif path.suffix == ".aselmdb":
        write_aselmdb(path, frames)
    elif path.suffix == ".npz":
        np.savez_compressed(path, z=numbers(molecule), R=positions(molecule), E=np.arange(FRAMES), F=forces(molecule))
    elif path.suffix == ".msgpack":
        atoms = [np.column_stack([numbers(molecule), place]).tolist() for place in positions(molecule)]
        path.write_bytes(msgpack.packb({"CCO": {"conformers": [{"xyz": xyz, "totalenergy": -1.0} for xyz in atoms]}}))
    elif path.suffix == ".pdb":
        path.write_text(Chem.MolToPDBBlock(molecule).replace("UNL", "LIG"))
    elif path.suffix == ".mol2":
        path.write_text(MOL2_WATER * 2)
    names = {".db": "ase-db", ".aselmdb": "ase-db", ".npz": "md17", ".msgpack": "geom", ".pdb": "pdb-ligands"}
    return names.get(path.suffix, path.suffix[1:])


def read(name: str, *paths: Path, **keys: object) -> list[SourceMolecule]:
    config = SourceConfig(name=name, input=tuple(map(str, paths)), **keys)
    check_source(config)
    return list(read_source(config))


def curated(row: SourceMolecule) -> Curated:
    result = curate_molecule(row, CurateConfig())
    assert isinstance(result, Curated), result
    return result


def reasons(rows: list[SourceMolecule]) -> list[str]:
    """Why each row is not a molecule, "" where it is one."""
    results = [curate_molecule(row, CurateConfig()) for row in rows]
    return [result.reason if isinstance(result, Rejected) else "" for result in results]
