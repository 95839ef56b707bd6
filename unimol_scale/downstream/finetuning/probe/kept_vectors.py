"""Vectors of molecules that are computed once and kept in a file. Shapes: M rows, D channels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unimol_scale.common.files import commit_file
from unimol_scale.store.schema import Float32


def kept_vectors(path: Path, made_by: str, smiles: Sequence[str], compute: Callable[[], Float32]) -> Float32:
    """Return the vectors [M, D] that a file has of these molecules; compute and keep them if it has not.

    Args:
        path: .npz, read without pickles.
        made_by: what they depend on beside the molecules, such as the SHA-256 of the weights.
        smiles: [M] of the rows.
        compute: returns the vectors of all rows, NaN of those without any.

    Raises:
        OSError: the file cannot be written.
    """
    wanted = np.array(smiles)
    if path.is_file():
        with np.load(path) as kept:
            if str(kept["sha256"]) == made_by and np.array_equal(kept["smiles"], wanted):
                return np.asarray(kept["vectors"], np.float32)
    vector_MD = compute()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, savez would add a suffix to it
            np.savez(file, sha256=made_by, smiles=wanted, vectors=vector_MD)

    path.parent.mkdir(parents=True, exist_ok=True)
    commit_file(path, write)
    return vector_MD
