"""Checks that a user's own objective keeps the rules that the trainer relies on, with a few made-up molecules.

An objective that breaks these rules trains without an error, but its losses change with the number of ranks or after a
resume, or scaling laws fitted to its runs count parameters or FLOPs wrongly.
"""

import dataclasses
import pickle
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch

from unimol_scale.common.plugins import is_reference
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.engine.planning.rank_memory import MicroBatchShape
from unimol_scale.engine.planning.rehearsal import carbon_chains
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.errors import ConfigError
from unimol_scale.model.encodings import ModelInput
from unimol_scale.objectives.base import Objective, Sample

DataT = TypeVar("DataT", Sample, ModelInput)
_SHAPE = MicroBatchShape(molecules=4, num_atoms=9)


def check_own_objective(objective: Objective, config: PretrainConfig) -> None:
    """Check that a user's own objective corrupts batches as ``Objective`` requires.

    Args:
        objective: objective of the run.
        config: configuration of the run.

    Raises:
        ConfigError: it does not; the message says what is wrong.
    """
    if not is_reference(config.objective.name):
        return
    name = f"the objective {config.objective.name}"
    try:
        pickle.dumps(objective)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"{name} cannot be sent to loader processes: {error}") from error
    weights = objective.weights
    if not any(weight > 0.0 for weight in weights.values()):
        raise ConfigError(f"{name} has nothing to learn: none of its weights is positive ({dict(weights)})")
    _check_parameters(objective, config, name)
    for step, part in enumerate(objective.parts):
        batch, order = carbon_chains(_SHAPE, num_labels=len(config.data.labels)), np.arange(_SHAPE.molecules)
        before = pickle.dumps(batch)
        first, again, turned = (part.corrupt(batch, _keys(config.seed, o, step)) for o in (order, order, order[::-1]))
        if not isinstance(first, Sample):
            raise ConfigError(f"{name}: corrupt must return a unimol_scale.objectives.base.Sample, not {first!r}")
        if first.counts.keys() != part.weights.keys():
            raise ConfigError(
                f"{name}: corrupt counts the terms {', '.join(first.counts)}, but its weights are for "
                f"{', '.join(part.weights)}"
            )
        if pickle.dumps(batch) != before:
            raise ConfigError(f"{name}: corrupt must not change the batch that it is given")
        pairs = (*_tensors(first.input, again.input), *_tensors(first, again))  # inputs and targets
        if first.counts != again.counts or not all(_same(one, two) for one, two in pairs):
            raise ConfigError(
                f"{name}: corrupt returns a different sample each time. Its random numbers must come only from the "
                "keys: keys.uniform(stream, slots) or keys.normal(stream, slots)"
            )
        if not all(_same(one, two.flip(0)) for one, two in _tensors(first.input, turned.input)):
            raise ConfigError(
                f"{name}: what corrupt makes of a molecule depends on its position in the batch. Each molecule must "
                "use its own key: row b of keys.uniform(stream, slots) belongs to molecule b"
            )


def _check_parameters(objective: Objective, config: PretrainConfig, name: str) -> None:
    with torch.device("meta"):
        model = objective.build_model(config.model)
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{name}: build_model must return a torch.nn.Module, not {model!r}")
    built = sum(parameter.numel() for parameter in model.parameters())
    counted = objective.count_parameters(config.model).total
    if built != counted:
        raise ConfigError(
            f"{name}: build_model makes {built:,} parameters, but count_parameters says {counted:,}. An objective with "
            "modules of its own must also override count_parameters"
        )


def _keys(seed: int, order: np.ndarray, epoch: int) -> MoleculeKeys:
    return MoleculeKeys(seed=seed, epoch_B=np.full(len(order), epoch, np.int64), molecule_B=order.astype(np.int64))


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.shape != two.shape or not one.is_floating_point():
        return torch.equal(one, two)
    return torch.allclose(one, two, rtol=1e-4, atol=1e-5, equal_nan=True)  # sums may be rounded differently


def _tensors(one: DataT, two: DataT) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the tensors in the fields of two samples, or of their inputs, in pairs."""
    for field in dataclasses.fields(one):
        first, second = getattr(one, field.name), getattr(two, field.name)
        if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
            yield first, second
