"""Saves and loads fine-tuned models: ``finetuned.json``, and the tensors of one model per seed or fold.

``finetuned.json`` is written last: a folder without it is not a fine-tuned model. Nothing here runs code from a file,
and the hash of every file is checked.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from unimol_scale.checkpoints.model_folder import WEIGHTS_NAME
from unimol_scale.checkpoints.safetensors_writer import TensorKind, write_safetensors
from unimol_scale.common.files import commit_file, hash_file
from unimol_scale.common.run_files import CHECKPOINTS, FINETUNED_NAME, MODEL_FOLDER
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.config import Origin, build, to_tree
from unimol_scale.data.input_views import STANDARD_VIEWS, Inputs, InputView
from unimol_scale.downstream.config import Fragments, HeadName, Pooling, Task, Transform
from unimol_scale.downstream.finetuning.finetuning_folder import INPUTS_NAME
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.downstream.uncertainty.rules import ConformalRule, DomainRule
from unimol_scale.errors import CheckpointError, ConfigError, version_problem
from unimol_scale.model.presets import ModelConfig

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Member:
    """The model of one seed, or of one fold: its file, and the scaling of its outputs.

    Attributes:
        file: name of the file with its tensors.
        sha256: hexadecimal SHA-256 of that file.
        mean_L: added to the outputs of a regression after multiplication by ``std_L``.
        std_L: standard deviations of the training labels.
        references: for the model of a fold: its own ``FinetunedConfig.references``, fitted to its training rows; empty,
            or in models older than this key: those of ``FinetunedConfig``.
        pooling: for the model of a fold, whose settings may have been searched separately: its own pooling; None, or in
            models older than this key: that of ``FinetunedConfig``.
        dropout: dropout of the head in training; 0 in models older than this key, for which it is not known.
    """

    file: str
    sha256: str
    mean_L: tuple[float, ...]
    std_L: tuple[float, ...]
    references: dict[str, dict[str, float]] = field(default_factory=dict)
    pooling: Pooling | None = None
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class FinetunedConfig:
    """Content of ``finetuned.json``.

    Attributes:
        format_version: version of the folder's layout.
        model: dimensions of the backbone.
        pooling: how atoms become the vector of a molecule.
        inputs: inputs of the model.
        task: kind of the labels.
        targets: [L] names of the targets.
        units: target → unit, if one is known.
        metric: name of the metric that chose the best epoch; prediction does not need it.
        max_atoms: molecules with more heavy atoms were refused; None: the default limit.
        members: the models, one per seed and per fold of a cross-validation.
        fragments: how molecules of several fragments were treated; models older than this key used the largest.
        view: form in which molecules are shown to the model; None, or in models older than this key: the standard form.
        pretrained_inputs: the inputs of pretraining; None if they are not known, or there was no pretraining.
        masks: whether pretraining hid atoms from the model, as ``explain`` does; None in models older than this key.
        references: target → element → energy, in the target's unit, to add to the outputs for each atom. Absent
            targets, and models older than this key, have none. Those of a cross-validation are in its members.
        hydrogens: whether the model sees hydrogens as atoms; models older than this key do not.
        conformers: number of conformers per molecule over which predictions are averaged; 1 in models older than this
            key.
        head: kind of the head; ``mlp`` in models older than this key.
        classes: target → names of its classes in the order of their indices. Absent targets, and models older than this
            key, have numbers, or 0 and 1.
        transforms: target → transform of its labels. Absent targets, and models older than this key, have none.
        conformal: how intervals or sets of classes are made; None if the task has none, or in models older than this
            key.
        domain: where the domain of the model ends; None if it was turned off, or in models older than this key.
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
    view: InputView | None = None
    pretrained_inputs: tuple[Inputs, ...] | None = None
    masks: bool | None = None
    references: dict[str, dict[str, float]] = field(default_factory=dict)
    hydrogens: bool = False
    conformers: int = 1
    head: HeadName = "mlp"
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    transforms: dict[str, Transform] = field(default_factory=dict)
    conformal: ConformalRule | None = None
    domain: DomainRule | None = None

    def __post_init__(self) -> None:
        if not self.members:
            raise ConfigError("members is empty: a fine-tuned model has at least one")

    @property
    def outputs(self) -> Outputs:
        """The outputs of the models."""
        return Outputs(task=self.task, targets=self.targets, classes=self.classes)

    def scaling_of(self, member: Member) -> Scaling:
        """Return the scaling that converts a member's outputs to values in the labels' units, or to probabilities."""
        transforms = tuple(self.transforms.get(target, "none") for target in self.targets)
        return Scaling(
            task=self.task,
            mean_L=member.mean_L,
            std_L=member.std_L,
            num_classes=self.outputs.num_classes,
            transforms=transforms if self.transforms else (),
        )

    def references_of(self, member: Member) -> dict[str, dict[str, float]]:
        """Return target → element → energy to add to the outputs of a member."""
        return member.references or self.references

    @property
    def shown(self) -> InputView:
        """The form in which molecules are shown to the model."""
        return STANDARD_VIEWS[self.inputs] if self.view is None else self.view


def save_member(folder: Path, file: str, model: PropertyModel) -> str:
    """Write the tensors of a model; return the SHA-256 of the file.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    state = {name: tensor.float() for name, tensor in model.state_dict().items()}
    kinds = {name: TensorKind(dtype=torch.float32, shape=tensor.shape) for name, tensor in state.items()}

    def write(temporary: Path) -> None:
        write_safetensors(temporary, kinds, state.__getitem__)

    commit_file(folder / file, write)
    return hash_file(folder / file)


def save_config(folder: Path, config: FinetunedConfig) -> None:
    """Write ``finetuned.json``; call it last, since it makes the folder a fine-tuned model."""
    write_json(folder / FINETUNED_NAME, to_tree(config), indent=2)


def read_config(folder: Path) -> FinetunedConfig:
    """Read ``finetuned.json`` and check every key.

    Raises:
        CheckpointError: the file is missing or wrong. The message names the key.
    """
    path = folder / FINETUNED_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a fine-tuned model: it has no {FINETUNED_NAME}, written last by `unimol-scale finetune`; "
            f"{_remedy(folder)}"
        )
    try:
        tree = read_json(path)
        if problem := version_problem(tree.get("format_version"), FORMAT_VERSION):
            raise ConfigError(problem)
        return build(FinetunedConfig, tree, Origin(name=str(path), recorded=True))
    except (OSError, NotJsonError, ConfigError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _remedy(folder: Path) -> str:
    """Return advice for a folder that is not a fine-tuned model."""
    if (folder / INPUTS_NAME).is_file():
        return "its fine-tuning is unfinished: run the same command again to continue it"
    if any((folder / name).exists() for name in (CHECKPOINTS, MODEL_FOLDER, WEIGHTS_NAME)):
        return (
            f"it holds a pretrained model, which must be fine-tuned first: `unimol-scale finetune --from {folder} "
            "--data LABELLED` (embed can use it directly)"
        )
    return "give the folder that was its --output, such as finetuned/<data>-<model>"


def load_member(folder: Path, config: FinetunedConfig, member: Member) -> PropertyModel:
    """Load one model, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: its file is missing, damaged, or belongs to another model.
    """
    path = folder / member.file
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; {FINETUNED_NAME} names it")
    if hash_file(path) != member.sha256:
        raise CheckpointError(f"{path} is damaged (its SHA-256 differs from {FINETUNED_NAME})")
    model = PropertyModel(
        config.model,
        config.outputs.num_logits,
        member.pooling or config.pooling,
        dropout=member.dropout,
        head=config.head,
        ordered=config.task == "ordinal",
    )
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} does not hold the model of {FINETUNED_NAME}: {error}") from error
    return model.eval()
