"""Whether an objective of the user's own keeps what the trainer relies on, tried on a few made-up molecules.

What breaks these rules trains all the same, and gives other losses on another number of ranks or after a resume.
"""

import dataclasses
import pickle
from collections.abc import Iterator

import numpy as np
import torch

from unimol_scale.common.plugins import is_reference
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.engine.planning.rank_memory import MicroBatchShape
from unimol_scale.engine.planning.rehearsal import carbon_chains
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.errors import ConfigError
from unimol_scale.objectives.base import Objective, Sample

_SHAPE = MicroBatchShape(molecules=4, num_atoms=9)


def check_own_objective(objective: Objective, config: PretrainConfig) -> None:
    """Find out whether an objective that is not ours corrupts as ``Objective`` says.

    Args:
        objective: of the run.
        config: of the run.

    Raises:
        ConfigError: it does not; says what is wrong.
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
        raise ConfigError(f"{name} learns nothing: none of its weights is positive ({dict(weights)})")
    for step, part in enumerate(objective.parts):
        batch, order = carbon_chains(_SHAPE, num_labels=len(config.data.labels)), np.arange(_SHAPE.molecules)
        before = pickle.dumps(batch)
        first, again, turned = (part.corrupt(batch, _keys(config.seed, o, step)) for o in (order, order, order[::-1]))
        if not isinstance(first, Sample):
            raise ConfigError(f"{name}: corrupt must return a unimol_scale.objectives.base.Sample, not {first!r}")
        if first.counts.keys() != part.weights.keys():
            raise ConfigError(
                f"{name}: corrupt counts the terms {', '.join(first.counts)}, and its weights are of "
                f"{', '.join(part.weights)}"
            )
        if pickle.dumps(batch) != before:
            raise ConfigError(f"{name}: corrupt changes the batch that it is given, which is not its own")
        if not all(_same(one, two) for one, two in _inputs(first, again)):
            raise ConfigError(
                f"{name}: corrupt makes another sample each time. Its random numbers must come from the keys alone: "
                "keys.uniform(stream, slots) or keys.normal(stream, slots)"
            )
        if not all(_same(one, two.flip(0)) for one, two in _inputs(first, turned)):
            raise ConfigError(
                f"{name}: what corrupt makes of a molecule depends on its place in the batch. Each molecule must draw "
                "by its own key: row b of keys.uniform(stream, slots) is of molecule b"
            )


def _keys(seed: int, order: np.ndarray, epoch: int) -> MoleculeKeys:
    return MoleculeKeys(seed=seed, epoch_B=np.full(len(order), epoch, np.int64), molecule_B=order.astype(np.int64))


def _same(one: torch.Tensor, two: torch.Tensor) -> bool:
    if one.shape != two.shape or not one.is_floating_point():
        return torch.equal(one, two)
    return torch.allclose(one, two, rtol=1e-4, atol=1e-5, equal_nan=True)  # sums may be rounded in another order


def _inputs(one: Sample, two: Sample) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what the model sees of two samples, tensor by tensor."""
    for field in dataclasses.fields(one.input):
        first, second = getattr(one.input, field.name), getattr(two.input, field.name)
        if isinstance(first, torch.Tensor):
            yield first, second
