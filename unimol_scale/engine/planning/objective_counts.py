"""Counts parameters and FLOPs of a run under its objective, from the settings that it would be started with."""

from collections.abc import Mapping
from typing import Any

from unimol_scale.common.trees import merge
from unimol_scale.config import COMMAND_LINE, Origin
from unimol_scale.engine.objective_setup import objective_of
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective

# Settings that do not affect the counts, so unsuitable values must not cause an error.
_ANYWHERE = {"output": "runs/counted", "data": {"path": "data/counted"}, "train": {"steps": 810_000}}


class ModelCount:
    """Parameter and FLOP counts of one model.

    Args:
        model: dimensions of the model.
        objective: the objective that it learns.

    Attributes:
        parameters: group → count, "total" among them.
    """

    def __init__(self, model: ModelConfig, objective: Objective) -> None:
        self._model, self._objective = model, objective
        self.parameters = {name: float(count) for name, count in objective.count_parameters(model).as_dict().items()}

    def training_flops(self, num_atoms: int) -> float:
        """FLOPs of one training step for a molecule of ``num_atoms`` atoms."""
        return self._objective.training_flops(self._model, num_atoms)


def count_objective(size: str, settings: Mapping[str, Any]) -> ModelCount:
    """Count a model with the heads of its objective and, for a student, its teacher.

    Args:
        size: preset of the model.
        settings: settings of the run, as a tree.

    Raises:
        UnimolScaleError: the settings would be refused, or the teacher is missing.
    """
    config = resolve(size, merge(settings, _ANYWHERE), Origin(name=COMMAND_LINE))
    return ModelCount(config.model, objective_of(config))
