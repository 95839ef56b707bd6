"""What a run folder holds: what trainer, checkpoints, scaling laws and fine-tuning agree on. Imports nothing."""

CONFIG_NAME = "config.yaml"
CONFIG_HISTORY_NAME = "config_history.jsonl"  # of a run that was started again with other settings
METRICS_NAME = "metrics.jsonl"
SUMMARY_NAME = "summary.json"  # of a run that has ended
SKIPPED_NAME = "skipped.jsonl"
CURVE_NAME = "curve.png"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
LATEST = "latest"  # among the checkpoints: a file with the name of the newest
MODEL_FOLDER = "model"  # of a finished run
MODEL_CARD_NAME = "README.md"  # of a model that was made ready for others
FINETUNED_NAME = "finetuned.json"  # of a fine-tuned model, whose folder is not a run's
SUMMARY_SCHEMA_VERSION = 1
UNIQUE = "unique_molecules"  # key of the summary: distinct molecules of the training part
# A run whose last validation loss is this far above its best has diverged.
DIVERGED_FACTOR = 1.5
# Share of all steps in which a run with the schedule wsd decays, unless it says another. Hägele et al. 2024 (arXiv
# 2405.18392): a cooldown of a fifth of the steps, of the shape 1-sqrt, ends at or below the loss of a cosine schedule.
DECAY_FRACTION = 0.2


def decay_start(steps: int, decay_fraction: float) -> int:
    """Return after how many steps a run with the schedule wsd begins to decay; at least its last step does."""
    return steps - max(1, round(decay_fraction * steps))
