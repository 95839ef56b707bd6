"""Saves and loads fine-tuned models: ``finetuned.json`` and the tensors of one model for each seed.

A folder is a fine-tuned model from the moment ``finetuned.json`` is in it, which is last. Nothing here runs code from
a file, and every file is held against its hash.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unimol_scale.checkpoints.safetensors_writer import TensorKind, write_safetensors
from unimol_scale.checkpoints.weights import WEIGHTS_NAME
from unimol_scale.common.files import commit_file, commit_text, hash_file
from unimol_scale.common.run_files import CHECKPOINTS, FINETUNED_NAME, MODEL_FOLDER
from unimol_scale.config import Origin, build, to_tree
from unimol_scale.downstream.config import Fragments, Inputs, Pooling, Task
from unimol_scale.downstream.finetuning.finetuning_folder import INPUTS_NAME
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.errors import CheckpointError, ConfigError
from unimol_scale.model.presets import ModelConfig

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model: its file, and what it predicts with.

    Attributes:
        file: of its tensors, within the folder.
        sha256: of the file's bytes, hexadecimal.
        mean_L: added to the outputs of a regression, after ``std_L``.
        std_L: by which they are multiplied.
    """

    file: str
    sha256: str
    mean_L: tuple[float, ...]
    std_L: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class FinetunedConfig:
    """What ``finetuned.json`` says.

    Attributes:
        format_version: of the folder's layout.
        model: dimensions of the backbone.
        pooling: what stands for a molecule.
        inputs: what the model sees.
        task: what it predicts.
        targets: [L] names.
        units: target → unit, where one is known.
        metric: name of that by which it was chosen; a prediction does not need it.
        max_atoms: molecules with more heavy atoms were refused; None: the default limit.
        members: one for each seed.
        fragments: what was done to rows with several; models of before the setting took the largest.
    """

    format_version: int
    model: ModelConfig
    pooling: Pooling
    inputs: Inputs
    task: Task
    targets: tuple[str, ...]
    units: dict[str, str]
    metric: str
    max_atoms: int | None
    members: tuple[Member, ...]
    fragments: Fragments = "largest"

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise ConfigError(
                f"format_version {self.format_version} is not {FORMAT_VERSION}, the one this version reads"
            )
        if not self.members:
            raise ConfigError("members is empty: a fine-tuned model has one at least")


def save_member(folder: Path, file: str, model: PropertyModel) -> str:
    """Write the tensors of a model; return the SHA-256 of the file.

    Raises:
        OSError: the disk is full or refuses.
    """
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    kinds = {name: TensorKind(dtype=torch.float32, shape=tensor.shape) for name, tensor in state.items()}

    def write(temporary: Path) -> None:
        write_safetensors(temporary, kinds, state.__getitem__)

    commit_file(folder / file, write)
    return hash_file(folder / file)


def save_config(folder: Path, config: FinetunedConfig) -> None:
    """Write ``finetuned.json``, which makes the folder a fine-tuned model: call it last."""
    commit_text(folder / FINETUNED_NAME, json.dumps(to_tree(config), indent=2) + "\n")


def read_config(folder: Path) -> FinetunedConfig:
    """Read ``finetuned.json``, strictly.

    Raises:
        CheckpointError: it is missing or wrong; names the key.
    """
    path = folder / FINETUNED_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no fine-tuned model: it has no {FINETUNED_NAME}, which `unimol-scale finetune` writes last; "
            f"{_remedy(folder)}"
        )
    try:
        tree: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(tree, dict):
            raise ConfigError("it must hold a mapping of keys to values")
        return build(FinetunedConfig, tree, Origin(name=str(path)))
    except (OSError, ValueError, ConfigError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _remedy(folder: Path) -> str:
    """Return what to do with a folder that is no fine-tuned model."""
    if (folder / INPUTS_NAME).is_file():
        return "its fine-tuning is unfinished: run the same command again, it goes on"
    if any((folder / name).exists() for name in (CHECKPOINTS, MODEL_FOLDER, WEIGHTS_NAME)):
        return (
            f"it holds a pretrained model, which predicts no property before `unimol-scale finetune --from {folder} "
            "--data LABELLED` (embed takes it as it is)"
        )
    return "give the folder that was its --output, such as finetuned/<data>-<model>"


def load_member(folder: Path, config: FinetunedConfig, member: Member) -> PropertyModel:
    """Load one model, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: its file is missing, damaged or of another model.
    """
    path = folder / member.file
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {FINETUNED_NAME} names it")
    if hash_file(path) != member.sha256:
        raise CheckpointError(f"{path} is damaged (its SHA-256 differs from {FINETUNED_NAME})")
    model = PropertyModel(config.model, len(config.targets), config.pooling, dropout=0.0)
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} does not hold the model of {FINETUNED_NAME}: {error}") from error
    return model.eval()
