"""Generators of conformers that misbehave; in a module of their own, which a child of a build can import soon."""

import errno
import os
import signal
import time

from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.chemistry.conformers import ConformerFailure, CuratedMolecule, generate_conformers
from unimol_scale.store.schema import MoleculeRecord

ALKANES = ["C" * length for length in range(1, 25)]


def die_or_hang(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> MoleculeRecord | ConformerFailure:
    """Make conformers, but for two planted molecules."""
    if molecule.smiles == ALKANES[5]:
        os.kill(os.getpid(), signal.SIGSEGV)
    if molecule.smiles == ALKANES[12]:
        time.sleep(1000)
    return generate_conformers(molecule, config, seed)


def greedy(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> MoleculeRecord | ConformerFailure:
    """Need more memory than a task may have, for one molecule."""
    if molecule.smiles == ALKANES[7]:
        bytearray(2**30)
    return generate_conformers(molecule, config, seed)


def full(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> ConformerFailure:
    raise OSError(errno.ENOSPC, "No space left on device")


def wrong(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> ConformerFailure:
    raise LookupError("of the generator")


def refuse(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> ConformerFailure:
    return ConformerFailure(reason="refused", detail="by the test")


def sleep(molecule: CuratedMolecule, config: ConformerConfig, seed: int) -> ConformerFailure:
    time.sleep(1000)
    return refuse(molecule, config, seed)
