"""Conformers on NVIDIA GPUs: a whole piece at once through nvmolkit, which no other file knows; imports it when used.

The GPU runs ETKDGv3 (from random coordinates, the only start it has) and minimises with MMFF94. Everything after
that is the CPU's own code: its minimiser goes on from the GPU's minimum and says whether it converged and at what
energy, then stereo, pruning and record as ever. What the GPU does not deliver in full, the CPU makes from the start.

What CUDA allocates on the host counts towards ``task_memory``; workers share the GPUs, pieces take them in turn.

nvmolkit takes one seed for a whole batch, so the coordinates of a molecule depend on the piece it is in; the CPU
engine's promise, that only seed and molecule matter, does not hold here. Nothing in this file has been timed, or run on
a GPU: its tests stand in for nvmolkit, whose interface is that of version 0.6.
"""

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.conformers import (
    ConformerFailure,
    CuratedMolecule,
    complete_molecule,
    generate_conformers,
    with_hydrogens,
)
from conformer_gen.chemistry.identity import stable_hash
from unimol_scale.errors import ConfigError, ConformerError
from unimol_scale.store.schema import MoleculeRecord

PREPROCESSING_THREADS = 1  # a task has one core; more workers on a GPU make use of more
PROBE = "CCO"
INSTALL = "pip install 'unimol-scale[nvmolkit]'"
# What nvmolkit raises: RuntimeError from CUDA, ValueError for molecules it refuses, here and there IndexError.
REFUSALS = (RuntimeError, ValueError, IndexError)


def require_gpus(config: ConformerConfig) -> None:
    """Make a conformer of one small molecule on each GPU asked for: all of them must work before a build starts.

    Raises:
        ConfigError: nvmolkit is not installed or fits another RDKit, or a GPU does not answer.
    """
    try:
        import nvmolkit.embedMolecules  # noqa: F401
    except ImportError as error:
        raise _missing(error) from error
    for gpu in config.gpus:
        problem = _probe(gpu)
        if problem:
            raise ConfigError(
                f"conformers.engine nvmolkit: GPU {gpu} makes no conformer of {PROBE}: {problem}. Give the numbers of "
                "working GPUs as conformers.gpus, or use conformers.engine rdkit"
            )


def versions(config: ConformerConfig) -> dict[str, str]:
    """Return what a store names beside RDKit: the version of nvmolkit where it is the engine.

    Raises:
        ConfigError: it is, and is not installed.
    """
    try:
        return {"nvmolkit": importlib.metadata.version("nvmolkit")} if config.engine == "nvmolkit" else {}
    except ImportError as error:
        raise _missing(error) from error


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(
        f"conformers.engine nvmolkit: nvmolkit cannot be imported here ({error}). Install it on a machine with NVIDIA "
        f"GPUs by {INSTALL}; it needs the one version of RDKit that it was made for. Or use conformers.engine rdkit"
    )


def _probe(gpu: int) -> str:
    """Return what is wrong with a GPU; empty if nothing is."""
    full = Chem.AddHs(Chem.MolFromSmiles(PROBE))
    try:
        _place([full], 1, 0, gpu)
    except REFUSALS as error:
        return str(error) or type(error).__name__
    return "" if full.GetNumConformers() else "it gives no conformer"


def generate_on_gpu(
    molecules: Sequence[tuple[int, CuratedMolecule]],
    config: ConformerConfig,
    seed: int,
    gpu: int,
    starting: Callable[[int | None, int], None],
) -> Iterator[MoleculeRecord | ConformerFailure]:
    """Make the records of many molecules; yields one result for each, in their order.

    Args:
        molecules: with their positions in the chunk.
        config: how to make conformers.
        seed: of the build.
        gpu: device number.
        starting: told of every molecule that the CPU works at, and of the GPU's work as a whole: position, or None, and
            number of molecules.

    Raises:
        ConformerError: nvmolkit raises, and the GPU makes no conformer of the simplest molecule any more either.
    """
    placed = [None if molecule.conformers is not None else with_hydrogens(molecule) for _, molecule in molecules]
    batch = [full for full in placed if full is not None]
    if batch:
        starting(None, len(batch))
        _place_and_minimise(batch, config, stable_hash(seed, *(m.key for _, m in molecules)) & 0x7FFFFFFF, gpu)
    for (position, molecule), full in zip(molecules, placed, strict=True):
        starting(position, 1)
        result: MoleculeRecord | ConformerFailure | None = None
        if full is not None and full.GetNumConformers() == config.count:
            result = complete_molecule(molecule, full, config)
        yield result if isinstance(result, MoleculeRecord) else generate_conformers(molecule, config, seed)


def _place_and_minimise(batch: list[Chem.Mol], config: ConformerConfig, seed: int, gpu: int) -> None:
    """Give molecules conformers, in place; those that the GPU refuses end without any."""
    refused = _bisected(lambda part: _place(part, config.count, seed, gpu), batch)
    with_mmff = [
        full
        for full in batch
        if full.GetNumConformers() == config.count and rdForceFieldHelpers.MMFFHasAllMoleculeParams(full)
    ]
    refused += _bisected(lambda part: _minimise(part, config.max_iterations, gpu), with_mmff)
    problem = _probe(gpu) if refused else ""
    if problem:
        raise ConformerError(
            f"nvmolkit raised for {len(refused)} of {len(batch)} molecules, and since then GPU {gpu} makes no "
            f"conformer of {PROBE} either: {problem}. Check the GPU and run the same command again, it resumes. "
            f"The first of them: {Chem.MolToSmiles(Chem.RemoveHs(refused[0]))}"
        )
    for full in refused:
        full.RemoveAllConformers()


def _bisected(work: Callable[[list[Chem.Mol]], None], batch: list[Chem.Mol]) -> list[Chem.Mol]:
    """Do the work on a batch, on its halves where it raises, and so on; return the molecules that raise alone."""
    try:
        if batch:
            work(batch)
        return []
    except REFUSALS:
        if len(batch) == 1:
            return batch
        half = len(batch) // 2
        return _bisected(work, batch[:half]) + _bisected(work, batch[half:])


def _place(batch: list[Chem.Mol], conformers: int, seed: int, gpu: int) -> None:
    from nvmolkit.embedMolecules import EmbedMolecules

    for full in batch:
        full.RemoveAllConformers()  # of a try that raised halfway
    parameters: Any = rdDistGeom.ETKDGv3()
    parameters.randomSeed = seed
    parameters.useRandomCoords = True
    EmbedMolecules(batch, parameters, confsPerMolecule=conformers, hardwareOptions=_hardware(gpu))


def _minimise(batch: list[Chem.Mol], max_iterations: int, gpu: int) -> None:
    from nvmolkit.mmffOptimization import MMFFOptimizeMoleculesConfs

    MMFFOptimizeMoleculesConfs(batch, maxIters=max_iterations, hardwareOptions=_hardware(gpu))


def _hardware(gpu: int) -> Any:  # noqa: ANN401
    from nvmolkit.types import HardwareOptions

    return HardwareOptions(preprocessingThreads=PREPROCESSING_THREADS, gpuIds=[gpu])
