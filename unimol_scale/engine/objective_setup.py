"""From a run's settings to what it learns: the objective, and the teacher where there is one.

Objectives know no files. What they need from one, a teacher's dimensions and weights, is read here and handed to them.
"""

import dataclasses
from collections.abc import Callable

import torch

from unimol_scale.checkpoints.parity import cast_parameters
from unimol_scale.checkpoints.weights import from_pretrained, identify
from unimol_scale.common.plugins import is_reference
from unimol_scale.engine.planning.corruption_check import check_corruption
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.errors import CheckpointError
from unimol_scale.objectives.base import Objective, Sample
from unimol_scale.objectives.config import build_objective
from unimol_scale.objectives.distill import Teacher


def objective_of(config: PretrainConfig) -> Objective:
    """Return the objective of a run.

    Raises:
        ConfigError: the model cannot learn it, the teacher is none, or code of the user's own does not keep what an
            objective must.
        CheckpointError: the teacher is missing or damaged.
    """
    distillation = config.objective.distillation
    teacher = None
    if distillation is not None:
        assert distillation.teacher is not None, "the settings demand one"
        teacher = identify(distillation.teacher)[0]
    objective = build_objective(config.objective, config.model, seed=config.seed, teacher=teacher)
    if is_reference(config.objective.name):
        check_corruption(objective, config)
    return objective


def teacher_of(config: PretrainConfig, device: torch.device) -> Callable[[Sample], Sample] | None:
    """Return what adds the teacher's targets to a sample on ``device``; None for an objective without a teacher.

    The teacher stands whole on every rank, in the run's precision: frozen, in evaluation mode, and unknown to the
    engine and its optimizer.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    distillation = config.objective.distillation
    if distillation is None:
        return None
    assert distillation.teacher is not None, "the settings demand one"
    model = from_pretrained(distillation.teacher)
    if config.train.precision == "bf16":
        cast_parameters(model, torch.bfloat16)
    return Teacher(model.backbone.to(device), distillation.normalise)


def with_teacher_named(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the hash of its teacher's weights filled in.

    Raises:
        CheckpointError: the teacher is missing, or not the one whose hash is given.
    """
    distill = config.objective.distillation
    if distill is None:
        return config
    assert distill.teacher is not None, "the settings demand one"
    found = identify(distill.teacher)[1]
    if distill.teacher_sha256 not in (None, found):
        raise CheckpointError(
            f"objective.distill.teacher: the weights of {distill.teacher} have the SHA-256 {found}, "
            f"not {distill.teacher_sha256} as objective.distill.teacher_sha256 says"
        )
    distill = dataclasses.replace(distill, teacher_sha256=found)
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, distill=distill))
