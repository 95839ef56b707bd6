"""Reads a batch and its outputs from another implementation, and converts its integer encoding to our input.

The file is an npz with arrays ``batch/*`` (the collated batch) and the outputs. Shapes: B molecules, A atoms
(padded).
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from unimol_scale.data import vocabulary as vocab
from unimol_scale.errors import CheckpointError, StoreError
from unimol_scale.model.encodings import ModelInput, check_input
from unimol_scale.objectives.denoise import DenoiseSample
from unimol_scale.store.schema import ATOM_VOCABULARIES, BOND_VOCABULARIES

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
OUTPUTS = (
    "x", "pair", "logits_masked", "coord", "distance", "loss", "masked_token_loss", "coord_loss", "dist_loss",
)  # fmt: skip
FEATURES_NAME = "features.npz"
GRADIENTS_NAME = "grad_norms.json"


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A batch and the outputs of the reference for it.

    Attributes:
        sample: the batch as input of our model.
        batch: arrays of the batch in the encoding of the reference; their names lack the prefix ``batch/``.
        outputs: arrays of those ``OUTPUTS`` that the file has.
        features: ``i/name`` → integers of molecule i; {} if there is no file of features.
        gradient_norms: tensor name in the released format → L2 norm; None if there is no file of norms.
    """

    sample: DenoiseSample
    batch: Arrays
    outputs: Arrays
    features: Arrays
    gradient_norms: Mapping[str, float] | None


def read_reference(path: Path, features: Path | None = None) -> Reference:
    """Read batch and outputs, and the features and gradient norms beside them if they exist.

    Args:
        path: npz file with the batch and its outputs.
        features: npz file with the features of each molecule; None uses ``features.npz`` beside ``path`` if it exists.

    Raises:
        CheckpointError: a file is missing or unreadable, or holds no outputs to compare with.
        StoreError: a code of the batch is out of range. The message names the molecule.
    """
    arrays = _read_npz(path)
    batch = {name.removeprefix("batch/"): value for name, value in arrays.items() if name.startswith("batch/")}
    outputs = {name: arrays[name] for name in OUTPUTS if name in arrays}
    if not outputs:
        raise CheckpointError(f"reference {path} has none of the outputs {', '.join(OUTPUTS)}")
    beside = path.with_name(FEATURES_NAME)
    chosen = features or (beside if beside.is_file() else None)
    try:
        sample = decode_batch(batch)
    except (CheckpointError, StoreError) as error:
        raise type(error)(f"reference {path}: {error}") from error
    return Reference(
        sample=sample,
        batch=batch,
        outputs=outputs,
        features=_read_npz(chosen) if chosen else {},
        gradient_norms=_read_norms(path.with_name(GRADIENTS_NAME)),
    )


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise CheckpointError(f"reference {path} does not exist") from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"reference {path} cannot be read as npz of plain arrays: {error}") from error


def _read_norms(path: Path) -> dict[str, float] | None:
    if not path.is_file():
        return None
    try:
        return {str(name): float(norm) for name, norm in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"reference {path} is not a JSON object of tensor name → norm: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _Code:
    """Encoding of one array: raw value = code − offset, between ``low`` and ``high``; ``hidden`` is a separate code."""

    name: str
    offset: int | Int64
    low: int
    high: int | Int64
    hidden: int = vocab.HIDDEN

    def decode(self, code: Int64, real: Bools, hidden: Bools, absent: int | None = None) -> Int64:
        """Return raw values, 0 at hidden, padded or ``absent`` entries; masks broadcast against ``code`` [B, …]."""
        none = (code == absent) & ~hidden
        raw = code - self.offset
        in_range = none | ((raw >= self.low) & (raw <= self.high))
        wrong = np.where(real, np.where(hidden, code != self.hidden, ~in_range), code != 0)
        if wrong.any():
            index = [int(i) for i in np.argwhere(wrong)[0]]
            raise StoreError(
                f"molecule {index[0]} of the batch: {self.name} has the code {code[tuple(index)]} at {index[1:]}, "
                "which is not valid there"
            )
        return np.where(real & ~hidden & ~none, raw, 0)


def decode_batch(batch: Arrays) -> DenoiseSample:
    """Convert a collated batch in the encoding of the reference to our input and targets.

    Args:
        batch: integers src_token, target_token (0 at atoms that are not masked) and degree [B, A], atom_feat [B, A, 8],
            edge_feat [B, A, A, 3] and shortest_path [B, A, A]; floats src_pos and target_pos [B, A, 3] in Å.

    Raises:
        CheckpointError: an array is missing or has another shape or dtype.
        StoreError: a code is out of range. The message gives the molecule's position in the batch.
    """
    token_BA, target_BA = _tokens(batch)
    B, A = token_BA.shape
    real_BA = token_BA != vocab.TOKEN_PADDING
    real_BAA = real_BA[:, :, None] & real_BA[:, None, :]
    atom_BA8 = _integers(batch, "atom_feat", (B, A, vocab.NUM_ATOM_FEATURES))
    hidden_B = ((atom_BA8 == vocab.HIDDEN) | ~real_BA[..., None]).all((1, 2))
    features = np.arange(vocab.NUM_ATOM_FEATURES)
    atom = _Code(
        name="atom_feat",
        offset=vocab.ATOM_FEATURE_OFFSET + vocab.ATOM_FEATURE_STRIDE * features,
        low=0,
        high=np.array([len(values) - 1 for values in ATOM_VOCABULARIES.values()]),
    )
    # Our input stores bond features as raw code + 1, so that they start at 1.
    bond = _Code(
        name="edge_feat",
        offset=vocab.BOND_FEATURE_OFFSET - 1 + vocab.BOND_FEATURE_STRIDE * features[: vocab.NUM_BOND_FEATURES],
        low=1,
        high=np.array([len(values) for values in BOND_VOCABULARIES.values()]),
    )
    degree = _Code(
        name="degree", offset=vocab.DEGREE_OFFSET, low=0, high=vocab.NUM_DEGREE_CODES - 1 - vocab.DEGREE_OFFSET
    )
    path = _Code(
        name="shortest_path", offset=vocab.PATH_OFFSET, low=0, high=vocab.PATH_UNREACHABLE, hidden=vocab.PATH_HIDDEN
    )
    edge_BAA3 = _integers(batch, "edge_feat", (B, A, A, vocab.NUM_BOND_FEATURES))
    bond_BAA3 = bond.decode(edge_BAA3, real_BAA[..., None], hidden_B[:, None, None, None], vocab.NO_BOND)
    degree_BA = degree.decode(_integers(batch, "degree", (B, A)), real_BA, hidden_B[:, None])
    path_BAA = path.decode(_integers(batch, "shortest_path", (B, A, A)), real_BAA, hidden_B[:, None, None])
    model_input = ModelInput(
        token_BA=torch.from_numpy(token_BA.astype(np.uint8)),
        atom_features_BA8=torch.from_numpy(
            atom.decode(atom_BA8, real_BA[..., None], hidden_B[:, None, None]).astype(np.uint8)
        ),
        degree_BA=torch.from_numpy(degree_BA.astype(np.uint8)),
        bond_features_BAA3=torch.from_numpy(bond_BAA3.astype(np.uint8)),
        path_BAA=torch.from_numpy(path_BAA.astype(np.int16)),
        hidden_B=torch.from_numpy(hidden_B),
        coordinates_BA3=torch.from_numpy(_positions(batch, "src_pos", (B, A, 3))),
    )
    check_input(model_input)
    masked_BA = target_BA != 0
    return DenoiseSample(
        input=model_input,
        counts={"token": float(masked_BA.sum()), "coordinate": float(B), "distance": float(B)},
        molecule_B=torch.arange(B),
        num_atoms=int(real_BA.sum()),
        masked_BA=torch.from_numpy(masked_BA),
        atomic_number_BA=torch.from_numpy(np.where(masked_BA, target_BA, token_BA).astype(np.uint8)),
        clean_BA3=torch.from_numpy(_positions(batch, "target_pos", (B, A, 3))),
    )


def _tokens(batch: Arrays) -> tuple[Int64, Int64]:
    rows = batch.get("src_token")
    if rows is None or rows.ndim != 2:
        raise CheckpointError("the array 'batch/src_token' is missing or not of shape [molecules, atoms]")
    token_BA = _integers(batch, "src_token", rows.shape)
    target_BA = _integers(batch, "target_token", rows.shape)
    highest_BA = np.where(token_BA == vocab.TOKEN_PADDING, 0, vocab.TOKEN_MASK)
    limits = (("src_token", token_BA, highest_BA), ("target_token", target_BA, np.maximum(highest_BA - 1, 0)))
    for name, values, high in limits:
        wrong = (values < 0) | (values > high)
        if wrong.any():
            molecule, atom = np.argwhere(wrong)[0]
            raise StoreError(
                f"molecule {molecule} of the batch: {name} is {values[molecule, atom]} at atom {atom}; "
                f"atomic numbers go from 1 to {vocab.TOKEN_MASK - 1}"
            )
    return token_BA, target_BA


def _array(batch: Arrays, name: str, shape: tuple[int, ...], kinds: str) -> Array:
    if name not in batch:
        raise CheckpointError(f"the array 'batch/{name}' is missing")
    if batch[name].shape != shape or batch[name].dtype.kind not in kinds:
        found = f"{batch[name].dtype} of shape {batch[name].shape}"
        wanted = "integers" if "f" not in kinds else "floating point"
        raise CheckpointError(f"the array 'batch/{name}' is {found}, expected {wanted} of shape {shape}")
    return batch[name]


def _integers(batch: Arrays, name: str, shape: tuple[int, ...]) -> Int64:
    return _array(batch, name, shape, "iu").astype(np.int64)


def _positions(batch: Arrays, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return _array(batch, name, shape, "f").astype(np.float32)
