"""Embedders that misbehave; in a module of their own, which a child process of a build can import soon."""

import errno
import os
import signal
import time

from conformer_gen.chemistry.conformers import CuratedMolecule, EmbedConfig, EmbedFailure, embed_molecule
from unimol_scale.store.schema import MoleculeRecord

ALKANES = ["C" * length for length in range(1, 25)]


def die_or_hang(molecule: CuratedMolecule, config: EmbedConfig, seed: int) -> MoleculeRecord | EmbedFailure:
    """Embed, but for two planted molecules."""
    if molecule.smiles == ALKANES[5]:
        os.kill(os.getpid(), signal.SIGSEGV)
    if molecule.smiles == ALKANES[12]:
        time.sleep(1000)
    return embed_molecule(molecule, config, seed)


def greedy(molecule: CuratedMolecule, config: EmbedConfig, seed: int) -> MoleculeRecord | EmbedFailure:
    """Need more memory than a task may have, for one molecule."""
    if molecule.smiles == ALKANES[7]:
        bytearray(2**30)
    return embed_molecule(molecule, config, seed)


def full(molecule: CuratedMolecule, config: EmbedConfig, seed: int) -> EmbedFailure:
    raise OSError(errno.ENOSPC, "No space left on device")


def wrong(molecule: CuratedMolecule, config: EmbedConfig, seed: int) -> EmbedFailure:
    raise LookupError("of the embedder")


def refuse(molecule: CuratedMolecule, config: EmbedConfig, seed: int) -> EmbedFailure:
    return EmbedFailure(reason="refused", detail="by the test")


def sleep(molecule: CuratedMolecule, config: EmbedConfig, seed: int) -> EmbedFailure:
    time.sleep(1000)
    return refuse(molecule, config, seed)
