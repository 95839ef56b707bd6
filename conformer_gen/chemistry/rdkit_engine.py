"""Coordinates from RDKit on CPUs: ETKDGv3, force fields, the 2D depiction. Imports RDKit.

ETKDGv3 (Wang, Witek, Landrum, Riniker 2020), then MMFF94, else UFF where MMFF94 has no parameters, else ETKDG's
geometry as it is.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDepictor, rdDistGeom, rdForceFieldHelpers
from rdkit.DistanceGeometry import DoTriangleSmoothing

from unimol_scale.store.schema import ConformerOrigin, Float32, Float64, UInt8


@dataclasses.dataclass(frozen=True)
class EtkdgStart:
    """One kind of start for ETKDG.

    Attributes:
        random: start from random coordinates, which helps where distance geometry fails.
        spread: keep the neighbours of highly coordinated atoms apart. ETKDG has no octahedral geometry: around the
            phosphorus of PF6⁻ it places fluorines on top of each other.
        reseed: added to the seed.
    """

    random: bool = False
    spread: bool = False
    reseed: int = 0


FIRST_STARTS = (EtkdgStart(), EtkdgStart(random=True))
# Used for molecules whose atoms clash: the first starts gave a conformer, but not a plausible one.
OTHER_STARTS = (
    EtkdgStart(spread=True),
    EtkdgStart(random=True, spread=True, reseed=1),
    EtkdgStart(reseed=1),
    EtkdgStart(random=True, reseed=2),
    EtkdgStart(random=True, spread=True, reseed=3),
)
# Degrees; a chelate ring of four holds two neighbours closer.
CROWDED_NEIGHBOURS, SPREAD_ANGLE, CHELATE_ANGLE = 4, 75.0, 55.0


def place(
    full: Chem.Mol,
    *,
    conformers: int,
    attempts: int,
    timeout_s: int,
    seed: int,
    starts: Sequence[EtkdgStart] = FIRST_STARTS,
) -> str:
    """Add conformers to a molecule by ETKDG, in place, trying one start after another until there is one.

    Args:
        full: the molecule with its hydrogens.
        conformers: number of conformers to make.
        attempts: attempts of ETKDG per conformer, from each kind of start.
        timeout_s: seconds for one kind of start.
        seed: 31 bits.
        starts: kinds of start, in the order to try.

    Returns:
        What went wrong if there is no conformer; otherwise "".
    """
    problem = ""
    full.RemoveAllConformers()
    for start in starts:
        parameters: Any = rdDistGeom.ETKDGv3()
        parameters.randomSeed = (seed + start.reseed) & 0x7FFFFFFF
        parameters.numThreads = 1
        parameters.maxIterations = attempts
        parameters.timeout = timeout_s
        parameters.useRandomCoords = start.random
        try:
            if start.spread:
                bounds = _spread_bounds(full)
                if bounds is None:
                    continue
                parameters.SetBoundsMat(bounds)
            rdDistGeom.EmbedMultipleConfs(full, conformers, parameters)
            # The ids it returns cannot be used: after a timeout they include conformers that do not exist.
            if full.GetNumConformers():
                return ""
            problem = "no conformer satisfies the distance bounds"
        except (RuntimeError, ValueError) as error:
            problem = first_line(error)
    return problem


def _spread_bounds(full: Chem.Mol) -> Float64 | None:
    """Return RDKit's distance bounds, widened between neighbours of crowded atoms; None if they conflict."""
    bounds: Float64 = rdDistGeom.GetMoleculeBoundsMatrix(full)  # the upper triangle has the upper bounds
    rings = full.GetRingInfo()
    for atom in full.GetAtoms():
        centre = atom.GetIdx()
        neighbours = sorted(neighbour.GetIdx() for neighbour in atom.GetNeighbors())
        if len(neighbours) < CROWDED_NEIGHBOURS:
            continue
        length = {at: bounds[min(at, centre), max(at, centre)] for at in neighbours}
        for first, last in itertools.combinations(neighbours, 2):
            if full.GetBondBetweenAtoms(first, last) is not None:
                continue
            in_small_ring = rings.AreAtomsInSameRing(first, last) and rings.MinAtomRingSize(first) <= 4
            cosine = math.cos(math.radians(CHELATE_ANGLE if in_small_ring else SPREAD_ANGLE))
            apart = math.sqrt(length[first] ** 2 + length[last] ** 2 - 2 * length[first] * length[last] * cosine)
            bounds[last, first] = max(bounds[last, first], apart)
            bounds[first, last] = max(bounds[first, last], bounds[last, first] + 0.01)
    return bounds if DoTriangleSmoothing(bounds) else None


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
    """Return the first informative line of RDKit's message."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
