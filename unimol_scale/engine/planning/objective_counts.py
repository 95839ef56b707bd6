"""Counts parameters and FLOPs of runs under their objective, from the settings that they would be started with."""

from collections.abc import Mapping
from typing import Any

from unimol_scale.common.trees import merge
from unimol_scale.config import COMMAND_LINE, Origin
from unimol_scale.engine.objective_setup import objective_of
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.model.presets import ModelConfig
from unimol_scale.objectives.base import Objective

# Settings that a count does not depend on, so that what they are is no reason for a refusal.
_ANYWHERE = {"output": "runs/counted", "data": {"path": "data/counted"}, "train": {"steps": 810_000}}


class ModelCount:
    """Counts of one model.

    Args:
        model: its dimensions.
        objective: that it learns.

    Attributes:
        parameters: group → count, "total" among them.
    """

    def __init__(self, model: ModelConfig, objective: Objective) -> None:
        self._model, self._objective = model, objective
        self.parameters = {name: float(count) for name, count in objective.count_parameters(model).as_dict().items()}

    def training_flops(self, num_atoms: int) -> float:
        """FLOPs of one training step for a molecule of so many atoms."""
        return self._objective.training_flops(self._model, num_atoms)


def count_objective(size: str, settings: Mapping[str, Any]) -> ModelCount:
    """Return what a model has and costs, with the heads of its objective and, of a student, its teacher.

    Args:
        size: preset of its model.
        settings: as a tree.

    Raises:
        UnimolScaleError: the run would be refused, or its teacher is missing.
    """
    config = resolve(size, merge(settings, _ANYWHERE), Origin(name=COMMAND_LINE))
    return ModelCount(config.model, objective_of(config))
