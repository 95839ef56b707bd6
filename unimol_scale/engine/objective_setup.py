"""Creates the objective of a run from its settings, and loads the teacher if there is one.

Objectives do not read files. What they need from one, a teacher's dimensions and weights, is read here and passed in.
"""

import dataclasses
from collections.abc import Callable

import torch

from unimol_scale.checkpoints.parity import cast_parameters
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.data.input_views import STANDARD_VIEWS, Inputs
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.errors import CheckpointError
from unimol_scale.objectives.base import Objective, Sample
from unimol_scale.objectives.config import build_objective
from unimol_scale.objectives.distill import Teacher

_WHAT = {"3d": "elements and coordinates", "2d+3d": "the graph and coordinates"}


def objective_of(config: PretrainConfig) -> Objective:
    """Return the objective of a run.

    Raises:
        ConfigError: the model cannot learn the objective, or the teacher is not a usable model.
        CheckpointError: the teacher is missing or damaged.
    """
    distillation = config.objective.distillation
    teacher = None
    if distillation is not None:
        assert distillation.teacher is not None, "the settings demand one"
        teacher = identify(distillation.teacher)[0]
    return build_objective(config.objective, config.model, seed=config.seed, teacher=teacher)


def teacher_of(config: PretrainConfig, device: torch.device) -> Callable[[Sample], Sample] | None:
    """Return a function that adds the teacher's targets to a sample on ``device``; None without a teacher.

    Every rank holds the whole teacher, in the run's precision, frozen and in evaluation mode. The engine and its
    optimizer do not know about it.

    Raises:
        CheckpointError: the teacher is missing or damaged.
    """
    distillation = config.objective.distillation
    if distillation is None:
        return None
    assert distillation.teacher is not None, "the settings demand one"
    model = load_pretrained(distillation.teacher)
    if config.train.precision == "bf16":
        cast_parameters(model, torch.bfloat16)
    return Teacher(model.backbone.to(device), distillation)


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


def unprepared_teacher(config: PretrainConfig) -> str | None:
    """Return a warning if the teacher will see inputs that its own pretraining never showed it; otherwise None.

    There is no warning for a teacher whose file does not record what it has seen.

    Raises:
        CheckpointError: the teacher is missing or damaged.
    """
    distillation = config.objective.distillation
    if distillation is None:
        return None
    assert distillation.teacher is not None, "the settings demand one"
    seen = identify(distillation.teacher)[2]
    shown: Inputs = "3d" if distillation.teacher_inputs == "3d" else "2d+3d"
    if seen is None or seen.views.get(shown) == STANDARD_VIEWS[shown]:
        return None
    return (
        f"objective.distill.teacher: teacher_inputs={distillation.teacher_inputs} shows {distillation.teacher} "
        f"{_WHAT[shown]}, which its pretraining never showed in this way, so part of its output is untrained. A "
        "denoise run shows both; denoising.yaml shows elements and coordinates only"
    )
