"""Names of the files in a run folder, and constants that several packages share. Imports nothing."""

CONFIG_NAME = "config.yaml"
CONFIG_HISTORY_NAME = "config_history.jsonl"  # exists if a run was restarted with other settings
METRICS_NAME = "metrics.jsonl"
SUMMARY_NAME = "summary.json"  # written when a run has ended
SKIPPED_NAME = "skipped.jsonl"
CURVE_NAME = "curve.png"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
LATEST = "latest"  # among the checkpoints: a file with the name of the newest
MODEL_FOLDER = "model"  # of a finished run
MODEL_CARD_NAME = "README.md"  # of a model that was made ready for others
FINETUNED_NAME = "finetuned.json"  # of a fine-tuned model, whose folder is not a run's
SUMMARY_SCHEMA_VERSION = 1
UNIQUE = "unique_molecules"  # key of the summary: number of distinct molecules in the training split
# A run has diverged if its last validation loss exceeds its best one by this factor.
DIVERGED_FACTOR = 1.5
# Default fraction of all steps in which the learning rate of a wsd schedule decays. Hägele et al. 2024 (arXiv
# 2405.18392): a cooldown over a fifth of the steps, of the shape 1-sqrt, matches or beats a cosine schedule's loss.
DECAY_FRACTION = 0.2


def decay_start(steps: int, decay_fraction: float) -> int:
    """Return the number of steps before a wsd schedule begins to decay; the decay lasts at least one step."""
    return steps - max(1, round(decay_fraction * steps))
