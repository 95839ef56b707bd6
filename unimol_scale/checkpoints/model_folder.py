"""The folder of a model: the name of its weights file, and ``config.json``, which describes them. Imports no torch."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Literal

from unimol_scale.common.run_files import CONFIG_NAME as RUN_CONFIG_NAME
from unimol_scale.common.run_files import FINETUNED_NAME, MODEL_FOLDER
from unimol_scale.common.text.json_files import NotJsonError, read_json
from unimol_scale.config import Origin, build, read_yaml
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.errors import CheckpointError, ConfigError, version_problem
from unimol_scale.model.accounting import Heads
from unimol_scale.model.presets import ModelConfig
from unimol_scale.store.manifest import MANIFEST_NAME

FORMAT_VERSION = 2  # version 1 stored the heads of only one objective
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """Content of ``config.json``. Files of earlier versions lack the keys that have a default here.

    Attributes:
        format_version: version of the folder's layout.
        model: dimensions and options of the model.
        heads: heads of the model.
        weights_bytes: size of ``model.safetensors``.
        weights_sha256: hexadecimal SHA-256 of ``model.safetensors``.
        seen: the inputs that the model was pretrained on; None if they are not known.
        hydrogens: whether hydrogens were atoms in pretraining; None if it is not known.
        loads_as: dtype to which the weights are converted on loading, for files that store a narrower dtype to save
            space; None: they keep the stored dtype.
    """

    format_version: int
    model: ModelConfig
    heads: Heads
    weights_bytes: int
    weights_sha256: str
    seen: InputsSeen | None = None
    hydrogens: bool | None = None
    loads_as: Literal["fp32"] | None = None


def model_folder(path: Path) -> Path:
    """Return the folder of the model: the subfolder ``model`` of a run folder, otherwise the folder itself."""
    inside = path / MODEL_FOLDER
    return inside if not (path / CONFIG_NAME).is_file() and (inside / CONFIG_NAME).is_file() else path


def read_config(directory: Path) -> PretrainedConfig:
    """Read ``config.json`` strictly: every key must be known, and every key without a default must be present.

    An option that did not exist when the file was written takes its default.

    Raises:
        CheckpointError: the file is missing or wrong. The message names the key.
    """
    path = model_folder(directory) / CONFIG_NAME
    try:
        tree = read_json(path)
    except FileNotFoundError as error:
        if (directory / FINETUNED_NAME).is_file():
            raise CheckpointError(_finetuned_instead(directory)) from error
        if (directory / MANIFEST_NAME).is_file():
            raise CheckpointError(
                f"{directory} is a conformer store, not a model; give the run that was pretrained on it, such as "
                f"runs/<name>, or pretrain one: unimol-scale pretrain --data {directory} --size NAME"
            ) from error
        raise CheckpointError(
            f"{directory} is not a checkpoint: it has no {CONFIG_NAME} "
            f"(a run has one in {MODEL_FOLDER}/ when it is finished, and checkpoints before that)"
        ) from error
    except OSError as error:
        raise CheckpointError(f"checkpoint {directory}: {CONFIG_NAME} cannot be read: {error}") from error
    except NotJsonError as error:
        raise CheckpointError(f"checkpoint {directory}: {CONFIG_NAME} cannot be read: it {error}") from error
    if problem := version_problem(tree.get("format_version"), FORMAT_VERSION):
        raise CheckpointError(f"checkpoint {directory}: {CONFIG_NAME}: {problem}")
    try:
        return build(PretrainedConfig, tree, Origin(name=str(path), recorded=True))
    except ConfigError as error:
        raise CheckpointError(f"checkpoint {directory}: {error}") from error


def _finetuned_instead(directory: Path) -> str:
    """Return the message for a fine-tuned model that was given instead of a pretrained one."""
    start = "that it started from"
    with contextlib.suppress(ConfigError):
        tree, _ = read_yaml(directory / RUN_CONFIG_NAME)
        start += f": {tree['pretrained']}" if tree.get("pretrained") else " (it started from random weights)"
    return (
        f"{directory} is a fine-tuned model, not a pretrained one. To predict with it: unimol-scale predict FILE "
        f"--from {directory} --output predicted.csv. To embed, or to fine-tune again, give the pretrained model {start}"
    )
