"""The distillation objective of D&D: a student of the 2D graph learns the atom representations of a frozen 3D teacher.

Source: Denoise and Distill (its eq. 6 and 7), with the two-track backbone on both sides. As in the paper, the teacher
sees elements and the clean conformer, and nothing of the graph unless that is requested. Its targets are computed on
the device, without gradients and outside the training engine, before the student's forward pass. The student is a model
without geometry, of any size; only its backbone is kept.

The error is the plain squared error by default, as in the paper. ``normalise=layer_norm`` normalises the teacher's
atoms
first: the paper's teacher ends in a layer norm but this backbone does not, so the scale of its atoms depends on depth
and width. With it, predicting zero scores 1 for any teacher. Downstream, the two were equal within their intervals.
Shapes: B molecules, A atoms (padded), N = A + 1 nodes, D channels of the teacher.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.input_views import STANDARD_VIEWS, InputsSeen
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.errors import ConfigError
from unimol_scale.model.accounting import Heads, forward_flops
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective, Sample, clean_input


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Settings of the distilling objective.

    Attributes:
        teacher: folder of a finished run, directory of a model, or file in the released format.
        teacher_sha256: hash of the teacher's weights; filled in when the teacher is loaded, or checked if given.
        teacher_inputs: what the teacher sees. ``3d``: elements and coordinates, with features, degrees, bonds and paths
            hidden as in pretraining, so the teacher must have been trained with some of them hidden. ``full``: all of
            these. Runs of versions without this setting used ``full``.
        target: ``node``, every atom of the teacher, or ``graph``, the mean over a molecule's atoms; the other one is
            only logged.
        normalise: what is done to each atom of the teacher first: ``none``, for the paper's plain squared error, or
            ``layer_norm``. Runs of versions without this setting normalised.
    """

    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"teacher_inputs": "full", "normalise": "layer_norm"}
    )

    teacher: Path | None = None
    teacher_sha256: str | None = None
    teacher_inputs: Literal["3d", "full"] = "3d"
    target: Literal["node", "graph"] = "node"
    normalise: Literal["layer_norm", "none"] = "none"


@dataclass(frozen=True, kw_only=True)
class DistillSample(Sample):
    """A clean micro-batch, with the teacher's atoms once the teacher has run.

    Attributes:
        target_BAD: fp32, the teacher's atoms; None before.
    """

    target_BAD: Tensor | None = None


class Teacher:
    """A frozen backbone that adds its atom representations to a sample.

    Args:
        backbone: backbone of the teacher, on its device and in its dtype; switched to evaluation mode.
        config: what it sees, and what is done to its atoms.
    """

    def __init__(self, backbone: TwoTrackBackbone, config: DistillConfig) -> None:
        self._backbone = backbone.eval().requires_grad_(False)
        self._config = config

    @torch.no_grad()
    def __call__(self, sample: Sample) -> DistillSample:
        """Return the sample with targets; values at padding are arbitrary."""
        assert isinstance(sample, DistillSample)
        seen = sample.input
        if self._config.teacher_inputs == "3d":
            seen = dataclasses.replace(seen, hidden_B=torch.ones_like(seen.hidden_B))
        atom_BAD = self._backbone(seen).atom_BND[:, 1:].float()
        if self._config.normalise == "layer_norm":
            atom_BAD = F.layer_norm(atom_BAD, atom_BAD.shape[-1:])
        return dataclasses.replace(sample, target_BAD=atom_BAD)


class DistillObjective(Objective):
    """Squared error between the student's and the teacher's atoms, mean over channels: terms ``node`` and ``graph``.

    Args:
        config: settings.
        student: the model that learns.
        teacher: the model that it learns from.
    """

    Config = DistillConfig
    implied = MappingProxyType({"model": {"geometry": False}})
    takes_empty_molecules = True
    teacher: ModelConfig

    def __init__(self, config: DistillConfig, student: ModelConfig, teacher: ModelConfig) -> None:
        self.config = config
        self.teacher = teacher
        self._projection = teacher.atom_width if teacher.atom_width != student.atom_width else 0

    @property
    def weights(self) -> Mapping[str, float]:
        """1 for the target that is learnt, 0 for the other."""
        return {name: float(name == self.config.target) for name in ("node", "graph")}

    @property
    def heads(self) -> Heads:
        """A linear map to the teacher's width, if the student's differs."""
        return Heads(projection=self._projection)

    @property
    def kept_heads(self) -> Heads:
        """No heads: only the student's backbone is kept."""
        return Heads()

    def check(self, config: ModelConfig) -> None:
        """Refuse a student that sees 3D, and a teacher that does not.

        Raises:
            ConfigError: the message names the key, or the teacher.
        """
        teacher, path = self.teacher, self.config.teacher
        if not teacher.geometry:
            raise ConfigError(f"objective.distill.teacher: {path} sees only the 2D graph, but a teacher must see 3D")
        if config.geometry:
            raise ConfigError(
                "model.geometry is true, but a student of distill must see only the 2D graph: leave it out"
            )

    def seen(self, config: ModelConfig) -> InputsSeen:
        """Return 2D: the student reads no geometry, and nothing else is hidden from it."""
        return InputsSeen(views={"2d": STANDARD_VIEWS["2d"]})

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> DistillSample:
        """Return the clean molecules; nothing is hidden, since the student does not read the geometry anyway."""
        sizes = batch.num_atoms_B
        return DistillSample(
            input=clean_input(batch),
            counts={"node": float(sizes.sum()), "graph": float(len(sizes))},
            molecule_B=torch.from_numpy(keys.molecule_B),
            num_atoms=int(sizes.sum()),
        )

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the sum of each term over the micro-batch, fp32 scalars.

        node: squared error, mean over channels, summed over atoms. graph: squared error between the means over a
            molecule's
        atoms, summed over molecules.
        """
        assert isinstance(sample, DistillSample)
        assert sample.target_BAD is not None, "the teacher has not seen this sample"
        atom_BAD = model.backbone(sample.input).atom_BND[:, 1:]
        if self._projection:
            atom_BAD = model.projection(atom_BAD)
        valid_BA1 = sample.input.valid_BA.unsqueeze(-1)
        error_BAD = (atom_BAD.float() - sample.target_BAD).masked_fill(~valid_BA1, 0.0)
        pooled_BD = error_BAD.sum(1) / valid_BA1.sum(1).clamp(min=1)
        return {"node": error_BAD.square().mean(-1).sum(), "graph": pooled_BD.square().mean(-1).sum()}

    def training_flops(self, config: ModelConfig, num_atoms: int) -> float:
        """FLOPs of one training step for one molecule: the student's, and the teacher's forward pass."""
        return super().training_flops(config, num_atoms) + forward_flops(self.teacher, num_atoms, Heads())
