"""Where the atoms of a molecule are put: ETKDGv3, force fields, the 2D depiction. Imports RDKit.

ETKDGv3 (Wang, Witek, Landrum, Riniker 2020), then MMFF94, else UFF where MMFF94 has no parameters, else the embedded
geometry as it is.
"""

from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom, rdForceFieldHelpers

from unimol_scale.store.schema import ConformerOrigin, Float32, Float64, UInt8


def place(full: Chem.Mol, *, conformers: int, attempts: int, timeout_s: int, seed: int) -> str:
    """Embed in place; a second try starts from random coordinates, which saves what distance geometry can not start.

    Args:
        full: the molecule with its hydrogens.
        conformers: wanted.
        attempts: of the embedder for each conformer, from each kind of start.
        timeout_s: seconds for one kind of start.
        seed: 31 bits.

    Returns:
        What went wrong if there is no conformer, else "".
    """
    problem = ""
    for random_coordinates in (False, True):
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = seed
        parameters.numThreads = 1
        parameters.maxIterations = attempts
        parameters.timeout = timeout_s
        parameters.useRandomCoords = random_coordinates
        try:
            rdDistGeom.EmbedMultipleConfs(full, conformers, parameters)
            # Not the ids it returns: after a timeout they name conformers that are not there.
            if full.GetNumConformers():
                return ""
            problem = "no conformer satisfies the distance bounds"
        except (RuntimeError, ValueError) as error:
            problem = first_line(error)
    return problem


def minimise(full: Chem.Mol, max_iterations: int) -> tuple[UInt8, Float32]:
    """Minimise all conformers in place; return their origins and energies (kcal/mol)."""
    helpers = rdForceFieldHelpers
    if helpers.MMFFHasAllMoleculeParams(full):
        results = helpers.MMFFOptimizeMoleculeConfs(full, numThreads=1, maxIters=max_iterations)
        converged, unconverged = ConformerOrigin.MMFF, ConformerOrigin.MMFF_UNCONVERGED
    elif helpers.UFFHasAllMoleculeParams(full):
        results = helpers.UFFOptimizeMoleculeConfs(full, numThreads=1, maxIters=max_iterations)
        converged, unconverged = ConformerOrigin.UFF, ConformerOrigin.UFF_UNCONVERGED
    else:
        results, converged, unconverged = [], ConformerOrigin.ETKDG, ConformerOrigin.ETKDG
    if not results or any(status < 0 for status, _ in results):  # no force field could be set up
        count = full.GetNumConformers()
        return np.full(count, ConformerOrigin.ETKDG, np.uint8), np.full(count, np.nan, np.float32)
    origins = [converged if status == 0 else unconverged for status, _ in results]
    return np.array(origins, np.uint8), np.array([energy for _, energy in results], np.float32)


def depict(basis: Chem.Mol) -> Float64:
    """Return the 2D depiction, [n, 3] Å in the plane z = 0."""
    flat = Chem.Mol(basis)
    rdDepictor.Compute2DCoords(flat)
    positions: Float64 = flat.GetConformer().GetPositions()
    return positions


def first_line(error: Exception) -> str:
    """Return the first line of RDKit's message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
