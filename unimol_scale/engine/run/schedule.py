"""The learning rate of every step."""

import math

from unimol_scale.engine.run.train_config import TrainConfig


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step (from 0): linear warm-up to the peak, then the schedule.

    The first step has 1/warmup_steps of the peak. The first step of a decay still has the peak, and ``linear``,
    ``cosine`` and ``wsd`` reach zero at step ``config.steps``, which is no longer done. ``inverse_sqrt`` falls as
    √(w/(step + 1)) for w warm-up steps (Vaswani et al. 2017, arXiv 1706.03762). ``wsd`` stays at the peak until its
    decay (Hu et al. 2024, arXiv 2404.06395; shapes of Hägele et al. 2024, arXiv 2405.18392).
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "inverse_sqrt":
        return config.learning_rate * math.sqrt(max(config.warmup_steps, 1) / (step + 1))
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    factor = {
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
        "constant": 1.0,
        "wsd": _decay(step, config),
    }[config.schedule]
    return config.learning_rate * factor


def _decay(step: int, config: TrainConfig) -> float:
    """Return the fraction of the peak learning rate at a step with the schedule wsd."""
    begin = config.decay_start
    if step < begin:
        return 1.0
    progress = (step - begin) / (config.steps - begin)
    return 1.0 - (math.sqrt(progress) if config.decay_shape == "1-sqrt" else progress)
