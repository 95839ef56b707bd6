"""The learning rate of every step."""

import math

from unimol_scale.engine.run.run_config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step, from 0: linear warm-up to the peak, then the schedule down to zero.

    The first step has 1/warmup_steps of the peak; the rate would be zero at step ``config.steps``.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    factor = {
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "constant": 1.0,
    }[config.schedule]
    return config.learning_rate * factor
