"""Makes the objective of a run from its settings, and loads the teacher if there is one.

Objectives know no files. What they need from one, a teacher's dimensions and weights, is read here and handed to them.
"""

import dataclasses
from collections.abc import Callable

import torch

from unimol_scale.checkpoints.parity import cast_parameters
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.errors import CheckpointError
from unimol_scale.objectives.base import Objective, Sample
from unimol_scale.objectives.distill import Teacher
from unimol_scale.objectives.registry import build_objective


def objective_of(config: PretrainConfig) -> Objective:
    """Return the objective of a run.

    Raises:
        ConfigError: the model cannot learn it, or the teacher is none.
        CheckpointError: the teacher is missing or damaged.
    """
    path = config.objective.distill.teacher
    if config.objective.name != "distill" or path is None:
        return build_objective(config.objective, config.model, seed=config.seed)
    return build_objective(config.objective, config.model, teacher=identify(path)[0])


def teacher_of(config: PretrainConfig, device: torch.device) -> Callable[[Sample], Sample] | None:
    """Return what adds the teacher's targets to a sample on ``device``; None for an objective without a teacher.

    The teacher stands whole on every rank, in the run's precision: frozen, in evaluation mode, and unknown to the
    engine and its optimizer.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = config.objective.distill.teacher
    if config.objective.name != "distill" or path is None:
        return None
    model = load_pretrained(path)
    if config.train.precision == "bf16":
        cast_parameters(model, torch.bfloat16)
    return Teacher(model.backbone.to(device), config.objective.distill.normalise)


def with_teacher_named(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the hash of its teacher's weights filled in.

    Raises:
        CheckpointError: the teacher is missing, or not the one whose hash is given.
    """
    distill = config.objective.distill
    if config.objective.name != "distill" or distill.teacher is None:
        return config
    found = identify(distill.teacher)[1]
    if distill.teacher_sha256 not in (None, found):
        raise CheckpointError(
            f"objective.distill.teacher: the weights of {distill.teacher} have the SHA-256 {found}, "
            f"not {distill.teacher_sha256} as objective.distill.teacher_sha256 says"
        )
    distill = dataclasses.replace(distill, teacher_sha256=found)
    return dataclasses.replace(config, objective=dataclasses.replace(config.objective, distill=distill))
