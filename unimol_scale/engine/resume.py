"""Whether a run's settings agree with those of its checkpoint: the same data, model, objective and batches.

What decides which function is learnt from which batches must be equal, or the loss curve would be of two runs; how long
and how fast one learns, and on how many ranks, may change.
"""

from collections.abc import Mapping
from typing import Any

from unimol_scale.config import to_tree
from unimol_scale.engine.run_config import PretrainConfig
from unimol_scale.errors import CheckpointError

# Settings that only say where things are and how they are made ready; the data itself is known by its hash.
_FREE_DATA = frozenset({"path", "max_pairs", "cache_dir", "cache_bytes", "workers", "prefetch"})
# Files may move; the teacher is known by its hash.
_FREE_OBJECTIVE = "objective.distill.teacher"
DATA_HASH = "data manifest SHA-256"
Settings = dict[str, Any]


def settings_that_matter(config: PretrainConfig, data_manifest_sha256: str) -> Settings:
    """Return dotted key → value of everything that a checkpoint and the run that continues it must share."""
    tree = to_tree(config)
    data = {key: value for key, value in tree["data"].items() if key not in _FREE_DATA}
    chosen = {
        "seed": tree["seed"],
        "model": tree["model"],
        "data": data,
        "objective": tree["objective"],
        "train": {"global_batch_size": tree["train"]["global_batch_size"], "ema_decay": tree["train"]["ema_decay"]},
    }
    flat = {key: value for key, value in _flatten(chosen) if key != _FREE_OBJECTIVE}
    return {**flat, DATA_HASH: data_manifest_sha256}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return one line for each setting that differs, "key: before → now"."""
    absent = "(absent)"
    return [
        f"{key}: {before.get(key, absent)} → {now.get(key, absent)}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key, absent) != now.get(key, absent)
    ]


def refuse_differences(before: Mapping[str, Any], now: Mapping[str, Any], where: object) -> None:
    """Raise if a run would go on with other settings than its checkpoint was trained with.

    Raises:
        CheckpointError: shows every difference.
    """
    if changed := differences(before, now):
        lines = "".join(f"\n  {line}" for line in changed)
        raise CheckpointError(
            f"{where} was trained with other settings (checkpoint → now):{lines}\n"
            "Take the checkpoint's settings, choose another --output, or go on all the same with --override"
        )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        path = f"{prefix}.{key}" if prefix else key
        pairs.extend(_flatten(value, path) if isinstance(value, Mapping) else [(path, value)])
    return pairs
