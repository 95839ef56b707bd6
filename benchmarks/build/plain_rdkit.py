"""What a build is compared with: plain RDKit, the builder's own chemistry in a loop, and Uni-Mol's records."""

import hashlib
import multiprocessing
import pickle
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rdkit.Chem.Scaffolds import MurckoScaffold

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from conformer_gen.chemistry.curate import Curated, curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from unimol_scale.store.schema import MoleculeRecord

SEED = 42
MAX_ITERATIONS = 2000
WARM_UP = 3  # molecules, before the clock starts
START_S = 300  # if a process has not started by then, the others give up

Loop = Callable[[str], object]


def conformers_plainly(smiles: str, attempts: int = 0, *, starts: Sequence[bool] = (False,)) -> Chem.Mol:
    """Return one ETKDGv3 conformer with hydrogens, minimised with MMFF94 if possible.

    Args:
        smiles: SMILES of the molecule.
        attempts: number of attempts of the embedder; 0 means RDKit's default, some hundreds.
        starts: for each start, until one gives a conformer, whether it is from random coordinates.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = rdDistGeom.ETKDGv3()
    parameters.randomSeed = SEED
    parameters.maxIterations = attempts
    for random_coordinates in starts:
        parameters.useRandomCoords = random_coordinates
        if rdDistGeom.EmbedMolecule(molecule, parameters) == 0:
            rdForceFieldHelpers.MMFFOptimizeMolecule(molecule, maxIters=MAX_ITERATIONS)
            break
    return molecule


def conformers_with_few_attempts(smiles: str) -> Chem.Mol:
    """Return the same conformer, but give up on hopeless molecules after as many attempts as the builder's first."""
    return conformers_plainly(smiles, attempts=ConformerConfig().attempts)


def conformers_with_equal_attempts(smiles: str) -> Chem.Mol:
    """Return the same conformer; where there is none, try as often from random coordinates, as the builder does."""
    return conformers_plainly(smiles, attempts=ConformerConfig().attempts, starts=(False, True))


def conformers_by_the_builders_chemistry(smiles: str) -> MoleculeRecord | ConformerFailure:
    """Return the builder's own record of a curated molecule: what is slower than this is the builder's machinery."""
    molecule = CuratedMolecule(id="", smiles=smiles, key=stable_hash(smiles), scaffold=0)
    return generate_conformers(molecule, ConformerConfig(), SEED)


def curation_by_the_builders_chemistry(smiles: str) -> tuple[Curated, int, int] | Rejected:
    """Return the builder's own result for a row, with the hashes of molecule and scaffold."""
    curated = curate_molecule(SourceMolecule(id="", smiles=smiles), CurateConfig())
    if isinstance(curated, Rejected):
        return curated
    return curated, stable_hash(curated.smiles), stable_hash(curated.scaffold_smiles)


def curate_plainly(smiles: str) -> tuple[str, bytes, bytes] | None:
    """Return canonical SMILES of the largest fragment, its hash and that of its Murcko scaffold; None if unreadable."""
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    largest = max(Chem.GetMolFrags(molecule, asMols=True), key=lambda fragment: fragment.GetNumHeavyAtoms())
    canonical, scaffold = Chem.MolToSmiles(largest), MurckoScaffold.MurckoScaffoldSmiles(mol=largest)
    key, group = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in (canonical, scaffold))
    return canonical, key, group


def measure(loop: Loop, smiles: Sequence[str], processes: int) -> float:
    """Return molecules/s of a loop over all of ``smiles`` in each of some processes at once, added up.

    The processes are fresh and start together, each after a few molecules of warm-up.
    """
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(processes), context.SimpleQueue()
    workers = [context.Process(target=_run, args=(loop, list(smiles), barrier, queue)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise SystemExit(f"a process of the plain loop ended with status {worker.exitcode}")
    return sum(len(smiles) / queue.get() for _ in workers)


def _run(loop: Loop, smiles: Sequence[str], barrier: Barrier, queue: "multiprocessing.SimpleQueue[float]") -> None:
    RDLogger.DisableLog("rdApp.*")
    for text in smiles[:WARM_UP]:
        loop(text)
    barrier.wait(START_S)
    start = time.perf_counter()
    for text in smiles:
        loop(text)
    queue.put(time.perf_counter() - start)


def pickled_record(smiles: str, conformers: int) -> bytes:
    """Return a molecule as Uni-Mol's LMDB files hold it: all atoms, that many conformers, a flat one, and the SMILES.

    Coordinates are random numbers, of which the size does not depend.
    """
    molecule = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rng = np.random.default_rng(SEED)
    shape = (molecule.GetNumAtoms(), 3)
    record = {
        "atoms": [atom.GetSymbol() for atom in molecule.GetAtoms()],
        "coordinates": [rng.normal(size=shape).astype(np.float32) for _ in range(conformers + 1)],
        "smi": smiles,
    }
    return pickle.dumps(record, protocol=5)
