"""Loads and saves pretrained models: released files, model folders, runs and their checkpoints, the hub.

A model folder holds ``model.safetensors`` and, written after it, ``config.json`` with the configuration of the model,
its heads, and size and SHA-256 of the weights file. A finished run has a model folder, ``model``. Nothing here runs
code from a file. Files are checked completely before a model is returned.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unimol_scale.checkpoints import hub
from unimol_scale.checkpoints.model_folder import (
    CONFIG_NAME,
    FORMAT_VERSION,
    WEIGHTS_NAME,
    PretrainedConfig,
    model_folder,
    read_config,
)
from unimol_scale.checkpoints.released_inputs import seen_by_released, seen_to_state
from unimol_scale.checkpoints.run.checkpoint_folder import (
    CheckpointInfo,
    TrainedModel,
    resolve_checkpoint,
    trained_model,
)
from unimol_scale.checkpoints.run.shares import ShareReader
from unimol_scale.checkpoints.safetensors_writer import TensorKind, write_safetensors
from unimol_scale.checkpoints.shipped import shipped_folder
from unimol_scale.common.files import TEMPORARY_SUFFIX, commit_file, hash_file
from unimol_scale.common.text.json_files import write_json
from unimol_scale.config import to_tree
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.errors import CheckpointError
from unimol_scale.model.accounting import DENOISE_HEADS, Heads
from unimol_scale.model.encodings import GaussianKernel
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.official.released_file import read_official_file
from unimol_scale.model.official.released_weights import (
    check_dimensions,
    check_values,
    from_official,
    infer_config,
    released_dimensions,
    to_official,
)
from unimol_scale.model.presets import ModelConfig


class Identity(NamedTuple):
    """What is known about a model without reading its weights.

    Attributes:
        model: dimensions and options of the model.
        sha256: hexadecimal hash that identifies its weights.
        seen: the inputs that it was pretrained on; None if they are not known.
    """

    model: ModelConfig
    sha256: str
    seen: InputsSeen | None


def load_pretrained(path: Path | str, *, averaged: bool = True) -> HeadedModel:
    """Load a model on the CPU, in evaluation mode.

    Args:
        path: a folder that ``save_pretrained`` wrote (weights keep their dtype unless its ``loads_as`` was given), a
            file in the released format, a run folder (its newest intact checkpoint if the run is unfinished), a
            checkpoint, the name of a model that comes with the package, or ``owner/name`` on the Hugging Face hub.
        averaged: for checkpoints: load the running mean of the weights if the run keeps one.

    Raises:
        CheckpointError: the model is missing, truncated or damaged, its file holds code, or its tensors do not match
            its configuration. The message names the file, the tensor or the byte.
    """
    path = local_path(path)
    if not path.is_dir():
        return load_official_checkpoint(path)
    if checkpoint := find_checkpoint(path):
        return load_checkpoint(checkpoint, averaged=averaged)
    path = model_folder(path)
    config = read_config(path)
    file = path / WEIGHTS_NAME
    size = file.stat().st_size if file.is_file() else None
    if size != config.weights_bytes:
        found = "is missing" if size is None else f"has {size} bytes, expected {config.weights_bytes}"
        raise CheckpointError(f"checkpoint {path}: {WEIGHTS_NAME} {found}")
    if hash_file(file) != config.weights_sha256:
        raise CheckpointError(f"checkpoint {path}: {WEIGHTS_NAME} is damaged (its SHA-256 differs from {CONFIG_NAME})")
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path}: {WEIGHTS_NAME} is not a safetensors file: {error}") from error
    try:
        model = empty_model(config.model, config.heads, config.seen)
        _check_tensors(tensors, model.state_dict())
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    if config.loads_as == "fp32":
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
    return _filled(model, tensors, config.hydrogens)


def identify(path: Path | str) -> Identity:
    """Return the identity of the model that ``load_pretrained`` would load; weights in a model folder are not read.

    Raises:
        CheckpointError: see ``load_pretrained``.
    """
    path = local_path(path)
    if path.is_dir():
        if checkpoint := find_checkpoint(path):
            trained = trained_model(checkpoint)
            return Identity(trained.model, checkpoint.sha256, trained.seen)
        config = read_config(path)
        return Identity(config.model, config.weights_sha256, config.seen)
    released = load_official_checkpoint(path)
    return Identity(released.backbone.config, hash_file(path), released.seen)


def load_checkpoint(checkpoint: CheckpointInfo, *, averaged: bool = True) -> HeadedModel:
    """Load the model of a verified checkpoint in fp32, in evaluation mode; for ``averaged`` see ``load_pretrained``.

    Raises:
        CheckpointError: the shares are incomplete, or do not match the model that the trainer recorded.
    """
    trained = trained_model(checkpoint)
    model = empty_model(trained.model, trained.heads, trained.seen)
    reader, expected = ShareReader(checkpoint.path), model.state_dict()
    tensors = {name: reader.weight(name, one.shape, averaged=averaged) for name, one in expected.items()}
    try:
        _check_tensors(tensors, expected)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {checkpoint.path}: {error}") from error
    return _filled(model, tensors, trained.hydrogens)


def load_official_checkpoint(path: Path | str) -> HeadedModel:
    """Load a file in the released Uni-Mol2 format, in fp32 and evaluation mode.

    The model has the options of the released weights, ``normalize_by="padded"`` and ``pair_type="chirality"``.

    If a file does not state the inputs of pretraining, they are assumed to be those of Uni-Mol2.

    Raises:
        CheckpointError: see ``load_pretrained``.
    """
    tensors, stated = read_official_file(Path(path))
    try:
        config = infer_config(tensors)
        check_dimensions(config, stated)
        model = empty_model(config, seen=seen_by_released(stated, config))
        state = from_official(tensors, model.state_dict(), config)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint {path}: {error}") from error
    return _filled(model, {name: tensor.float() for name, tensor in state.items()})


def save_pretrained(model: HeadedModel, directory: Path | str, *, loads_as: Literal["fp32"] | None = None) -> None:
    """Write a model as a folder from which ``load_pretrained`` loads identical weights.

    ``config.json`` is written last: a folder without it is not a model.

    Args:
        model: model with weights of any dtype.
        directory: folder to write.
        loads_as: dtype to which the weights are converted when they are loaded; None: they keep their dtype.

    Raises:
        CheckpointError: the folder is not empty or cannot be written, or a weight is not finite.
    """
    state = model.state_dict()
    for name, tensor in state.items():
        check_values(name, tensor)
    kinds = {name: TensorKind(dtype=tensor.dtype, shape=tensor.shape) for name, tensor in state.items()}
    trained = TrainedModel(model=model.backbone.config, heads=model.heads, seen=model.seen, hydrogens=model.hydrogens)
    _save(kinds, state.__getitem__, trained, directory, loads_as)


def save_checkpoint(checkpoint: CheckpointInfo, directory: Path | str, *, averaged: bool = True) -> None:
    """Write the model of a checkpoint as ``save_pretrained`` does, with one tensor at a time in memory.

    Args:
        checkpoint: a verified checkpoint.
        directory: folder to write.
        averaged: write the running mean of the weights if the run keeps one, else the weights after the last step.

    Raises:
        CheckpointError: see ``save_pretrained`` and ``load_checkpoint``.
    """
    trained = trained_model(checkpoint)
    expected = empty_model(trained.model, trained.heads).state_dict()
    kinds = {name: TensorKind(dtype=torch.float32, shape=tensor.shape) for name, tensor in expected.items()}
    reader = ShareReader(checkpoint.path)

    def checked(name: str) -> Tensor:
        tensor = reader.weight(name, kinds[name].shape, averaged=averaged)
        check_values(name, tensor)
        return tensor

    _save(kinds, checked, trained, directory)


def _save(
    kinds: Mapping[str, TensorKind],
    tensor_of: Callable[[str], Tensor],
    trained: TrainedModel,
    directory: Path | str,
    loads_as: Literal["fp32"] | None = None,
) -> None:
    directory = Path(directory)

    def write(temporary: Path) -> None:
        write_safetensors(temporary, kinds, tensor_of)

    _refuse_occupied(directory)
    file = directory / WEIGHTS_NAME
    with _writing(directory):
        commit_file(file, write)
        config = PretrainedConfig(
            format_version=FORMAT_VERSION,
            model=trained.model,
            heads=trained.heads,
            seen=trained.seen,
            weights_bytes=file.stat().st_size,
            weights_sha256=hash_file(file),
            hydrogens=trained.hydrogens,
            loads_as=loads_as,
        )
        write_json(directory / CONFIG_NAME, to_tree(config), indent=2)


def save_official(model: HeadedModel, path: Path | str) -> None:
    """Write a model as a file in the released format: ``model``, ``config`` with its dimensions, and ``args`` (None).

    The inputs of pretraining are stored beside the dimensions unless they are those of Uni-Mol2; other readers of the
    format ignore them.

    Raises:
        CheckpointError: the format cannot express the model, the file exists or cannot be written, or a weight is not
            finite.
    """
    path = Path(path)
    config = model.backbone.config
    dimensions = released_dimensions(config)
    if path.exists():
        raise CheckpointError(f"{path} already exists; choose another output")
    tensors = to_official({name: tensor.detach() for name, tensor in model.state_dict().items()}, config)
    for name, tensor in tensors.items():
        check_values(name, tensor)
    # The parts of a fused tensor share its memory, and torch.save would write the whole tensor for each part.
    stated = {**dimensions, **seen_to_state(model.seen, config)}
    content = {"model": {name: t.clone() for name, t in tensors.items()}, "config": stated, "args": None}
    with _writing(path):
        commit_file(path, lambda temporary: torch.save(content, temporary))


def find_checkpoint(path: Path) -> CheckpointInfo | None:
    """Return the verified checkpoint in a folder; None if the folder has a finished model or is not a run.

    Raises:
        CheckpointError: the checkpoint is damaged, or all checkpoints of the run are damaged.
    """
    return None if (model_folder(path) / CONFIG_NAME).is_file() else resolve_checkpoint(path)


def local_path(path: Path | str) -> Path:
    """Return the local path of a model; a name is resolved to a shipped model or a downloaded model of the hub.

    A path that exists takes precedence over a name.
    """
    if not Path(path).exists() and (shipped := shipped_folder(str(path))) is not None:
        return shipped
    return hub.download(str(path), (CONFIG_NAME, WEIGHTS_NAME)) if hub.is_hub_name(path) else Path(path)


def empty_model(config: ModelConfig, heads: Heads = DENOISE_HEADS, seen: InputsSeen | None = None) -> HeadedModel:
    """Return a model on the meta device, whose parameters have no values."""
    with torch.device("meta"):
        return HeadedModel(config, heads, seen)


def _filled(model: HeadedModel, state: Mapping[str, Tensor], hydrogens: bool | None = None) -> HeadedModel:
    # Copied into memory aligned by torch: with the alignment of the file, matrix products would differ in their last
    # bits from those of the trained model.
    owned = {name: tensor.clone() for name, tensor in state.items()}
    model.load_state_dict(owned, strict=True, assign=True)
    kernel = model.backbone.pair_encoding.distance
    if kernel is not None:  # the centres are constants, which no file stores
        kernel.centres_G = GaussianKernel(model.backbone.config).centres_G
    model.hydrogens = hydrogens
    return model.eval()


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for name, template in expected.items():
        if name not in tensors:
            raise CheckpointError(f"the tensor {name!r} is missing")
        if tensors[name].shape != template.shape:
            found, wanted = tuple(tensors[name].shape), tuple(template.shape)
            raise CheckpointError(f"the tensor {name!r} has shape {found}, expected {wanted}")
        check_values(name, tensors[name])
    if surplus := sorted(set(tensors) - set(expected)):
        raise CheckpointError(f"{len(surplus)} tensors do not belong to the model, the first is {surplus[0]!r}")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system, and of libraries that use it, into a CheckpointError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def _refuse_occupied(directory: Path) -> None:
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file; choose another output")
    names = {p.name for p in directory.iterdir()} if directory.exists() else set()
    # Files of an interrupted save may be overwritten.
    others = sorted(name for name in names if name != WEIGHTS_NAME and not name.endswith(TEMPORARY_SUFFIX))
    if others:
        raise CheckpointError(f"{directory} already holds {others[0]!r}; choose an empty or new directory")
