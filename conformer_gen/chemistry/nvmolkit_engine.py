"""Conformers on NVIDIA GPUs through nvmolkit, one piece at a time. Only this file imports nvmolkit, and only when used.

The GPU runs ETKDGv3 (from random coordinates, the only start it has) and minimises with MMFF94. The rest is the code
of the CPU engine: its minimiser continues from the GPU's minimum and reports energy and convergence, and stereo,
pruning and records are handled as usual. If the GPU does not deliver all conformers of a molecule, the CPU makes them
from the start.

Memory that CUDA allocates on the host counts towards ``task_memory``. Workers share the GPUs, and pieces use them in
turn.

nvmolkit takes one seed for a whole batch, so the coordinates of a molecule depend on the piece it is in. The CPU
engine's guarantee that only seed and molecule matter does not hold here. Nothing in this file has been timed, or run on
a GPU: its tests replace nvmolkit with a stand-in that has the interface of version 0.6.
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

PREPROCESSING_THREADS = 1  # a task has one core; several workers per GPU use more
PROBE = "CCO"
INSTALL = "pip install 'unimol-scale[nvmolkit]'"
# What nvmolkit raises: RuntimeError from CUDA, ValueError for molecules it refuses, and in places IndexError.
REFUSALS = (RuntimeError, ValueError, IndexError)


def require_gpus(config: ConformerConfig) -> None:
    """Make a conformer of one small molecule on each requested GPU: all must work before a build starts.

    Raises:
        ConfigError: nvmolkit is not installed or needs another RDKit, or a GPU does not respond.
    """
    try:
        import nvmolkit.embedMolecules  # noqa: F401
    except ImportError as error:
        raise _missing(error) from error
    for gpu in config.gpus:
        problem = _probe(gpu)
        if problem:
            raise ConfigError(
                f"conformers.engine nvmolkit: GPU {gpu} cannot make a conformer of {PROBE}: {problem}. Give the "
                "numbers of working GPUs as conformers.gpus, or use conformers.engine rdkit"
            )


def versions(config: ConformerConfig) -> dict[str, str]:
    """Return the versions that a store records besides RDKit's: that of nvmolkit if it is the engine.

    Raises:
        ConfigError: nvmolkit is the engine but is not installed.
    """
    try:
        return {"nvmolkit": importlib.metadata.version("nvmolkit")} if config.engine == "nvmolkit" else {}
    except ImportError as error:
        raise _missing(error) from error


def _missing(error: ImportError) -> ConfigError:
    return ConfigError(
        f"conformers.engine nvmolkit: nvmolkit cannot be imported here ({error}). Install it on a machine with NVIDIA "
        f"GPUs with {INSTALL}; it needs exactly the RDKit version it was built for. Or use conformers.engine rdkit"
    )


def _probe(gpu: int) -> str:
    """Return what is wrong with a GPU; "" if nothing is."""
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
    """Make the records of many molecules; yield one result for each, in their order.

    Args:
        molecules: each with its position in the chunk.
        config: how to make conformers.
        seed: seed of the build.
        gpu: device number.
        starting: called before the CPU works on a molecule, with its position, and before the GPU works on all of them,
            with None and the number of molecules.

    Raises:
        ConformerError: nvmolkit raised, and the GPU no longer makes a conformer even of the simplest molecule.
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
    """Add conformers to molecules in place; molecules that the GPU refuses end up with none."""
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
            f"nvmolkit raised for {len(refused)} of {len(batch)} molecules, and GPU {gpu} no longer makes a conformer "
            f"even of {PROBE}: {problem}. Check the GPU and run the same command again to resume. The first of them: "
            f"{Chem.MolToSmiles(Chem.RemoveHs(refused[0]))}"
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
