"""The identity of a molecule: a hash of its canonical SMILES, the same on every machine. Imports no RDKit."""

import hashlib


def stable_hash(*parts: str | int) -> int:
    """Return a 64-bit hash that depends only on the parts, on every machine and version: BLAKE2b, little-endian."""
    text = "\n".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
