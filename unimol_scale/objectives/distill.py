"""The distilling objective of D&D: a student of the 2D graph learns what a frozen 3D teacher says of the atoms.

Source: Denoise and Distill (its eq. 6 and 7), on the two-track backbone on both sides. The teacher sees elements
and the clean conformer, as in the paper, and nothing of the graph unless that is asked for. Its targets are made on the
device, without gradients and outside of the training engine, before the student's forward pass. The student is a model
without geometry, of any size; only its backbone is kept.

The error is the plain squared one by default, as in the paper. ``normalise=layer_norm`` normalises the teacher's atoms
first: the teacher of the paper ends in a layer norm and this backbone in none, so the scale of its atoms depends on
depth and width. An error of 1 is then that of a student that says zero, whatever the teacher. Downstream the two were
equal within their intervals. Shapes: B molecules, A atoms (padded), N = A + 1 nodes, D channels of the teacher.
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
        teacher_sha256: of the teacher's weights; filled in when it is found, and held against it when it is given.
        teacher_inputs: what the teacher sees: ``3d``, elements and coordinates, while features, degrees, bonds and
            paths are hidden as in pretraining, so the teacher must have been trained with some of them hidden; or
            ``full``, these too. A run of a version that had no such setting is one of ``full``.
        target: ``node``, every atom of the teacher, or ``graph``, the mean over a molecule's atoms; the other one is
            logged.
        normalise: what is done to each atom of the teacher first: ``none``, so that the error is the plain squared one
            of the paper, or ``layer_norm``. A run of a version that had no such setting normalises.
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
    """A clean micro-batch, with the teacher's word on it once it has spoken.

    Attributes:
        target_BAD: fp32, the teacher's atoms; None before.
    """

    target_BAD: Tensor | None = None


class Teacher:
    """A frozen backbone that adds its atoms to a sample.

    Args:
        backbone: of the teacher, on the device and in the dtype that it shall run in; switched to evaluation.
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
        """A linear map to the teacher's width if the student's is another."""
        return Heads(projection=self._projection)

    @property
    def kept_heads(self) -> Heads:
        """None: the student's backbone is the result."""
        return Heads()

    def check(self, config: ModelConfig) -> None:
        """Refuse a student that sees 3D, and a teacher that sees none.

        Raises:
            ConfigError: names the key, or the teacher.
        """
        teacher, path = self.teacher, self.config.teacher
        if not teacher.geometry:
            raise ConfigError(f"objective.distill.teacher: {path} sees the 2D graph only, and a teacher must see 3D")
        if config.geometry:
            raise ConfigError("model.geometry is true, but a student of distill sees the 2D graph only: leave it out")

    def seen(self, config: ModelConfig) -> InputsSeen:
        """Return 2D: the student reads no geometry, and nothing else is hidden from it."""
        return InputsSeen(views={"2d": STANDARD_VIEWS["2d"]})

    def corrupt(self, batch: MoleculeBatch, keys: MoleculeKeys) -> DistillSample:
        """Return the clean molecules; nothing is hidden but the geometry, which the student does not read."""
        sizes = batch.num_atoms_B
        return DistillSample(
            input=clean_input(batch),
            counts={"node": float(sizes.sum()), "graph": float(len(sizes))},
            molecule_B=torch.from_numpy(keys.molecule_B),
            num_atoms=int(sizes.sum()),
        )

    def score(self, model: HeadedModel, sample: Sample) -> dict[str, Tensor]:
        """Return the sum of each term over the micro-batch, fp32 scalars.

        node: squared error, mean over channels, summed over atoms. graph: that of the means over a molecule's atoms,
        summed over molecules.
        """
        assert isinstance(sample, DistillSample)
        assert sample.target_BAD is not None, "the teacher has not seen this sample"
        atom_BAD = model.backbone(sample.input).atom_BND[:, 1:]
        if self._projection:
            atom_BAD = model.projection(atom_BAD)
        valid_BA1 = sample.input.valid_BA.unsqueeze(-1)
        error_BAD = (atom_BAD.float() - sample.target_BAD).masked_fill(~valid_BA1, 0.0)
        pooled_BD = error_BAD.sum(1) / valid_BA1.sum(1)
        return {"node": error_BAD.square().mean(-1).sum(), "graph": pooled_BD.square().mean(-1).sum()}

    def training_flops(self, config: ModelConfig, num_atoms: int) -> float:
        """FLOPs of one training step for one molecule: the student's, and the teacher's forward pass."""
        return super().training_flops(config, num_atoms) + forward_flops(self.teacher, num_atoms, Heads())
