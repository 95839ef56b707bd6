"""Vectors of molecules that are computed once and kept in a file. Shapes: M rows, D channels."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from unimol_scale.common.files import commit_file
from unimol_scale.store.schema import Float32


def kept_vectors(path: Path, made_by: str, smiles: Sequence[str], compute: Callable[[], Float32]) -> Float32:
    """Return vectors of molecules, float32 [M, D], from a file; if they are not in it, compute and save them.

    Args:
        path: the ``.npz`` file, which is read without pickles.
        made_by: names everything else that the vectors depend on, such as the SHA-256 of the weights.
        smiles: [M] SMILES of the rows.
        compute: returns the vectors of all rows, with NaN for rows without one.

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
        with temporary.open("wb") as file:  # for a path, savez would append a suffix
            np.savez(file, sha256=made_by, smiles=wanted, vectors=vector_MD)

    path.parent.mkdir(parents=True, exist_ok=True)
    commit_file(path, write)
    return vector_MD
