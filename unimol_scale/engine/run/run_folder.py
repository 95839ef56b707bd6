"""The folder of a run: its lock, its settings, and the summary of the finished run."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from unimol_scale.common import summary_file
from unimol_scale.common.files import commit_text
from unimol_scale.common.machine.locks import HeldError, claim_lock
from unimol_scale.common.run_files import (
    CHECKPOINTS,
    CONFIG_NAME,
    DIVERGED_FACTOR,
    MODEL_FOLDER,
    SUMMARY_NAME,
    SUMMARY_SCHEMA_VERSION,
    UNIQUE,
)
from unimol_scale.common.summary_file import Summary
from unimol_scale.common.text.json_files import hash_json
from unimol_scale.config import to_yaml
from unimol_scale.data.dataset import VALIDATION_SEED, DataConfig
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.run_progress import Progress
from unimol_scale.errors import RunError, StoreError, version_problem
from unimol_scale.objectives.base import Objective
from unimol_scale.store.shards import Store

LOCK_NAME = ".lock"


def claim_folder(config: PretrainConfig) -> IO[bytes]:
    """Create the run folder, or recognise an existing one, and keep other processes out of it.

    Returns:
        An open file that locks the folder; the system closes it when this process ends.

    Raises:
        StoreError: the folder holds something other than a run.
        RunError: another process trains in it.
    """
    output = config.output
    ours = (CONFIG_NAME, LOCK_NAME)  # a lock alone means that the run ended before it wrote anything else
    if output.is_dir() and any(output.iterdir()) and not any((output / name).is_file() for name in ours):
        raise StoreError(
            f"{output} is not empty and is not a run folder (it has no {CONFIG_NAME}); choose another --output"
        )
    (output / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    try:
        return claim_lock(output / LOCK_NAME)
    except HeldError as error:
        raise RunError(
            f"another process is training in {output}{error.holder}: wait for it, end it (ranks may outlive a "
            "launcher that was killed), or choose another --output"
        ) from error


def write_config(config: PretrainConfig) -> None:
    """Write the configuration of a run into its folder."""
    commit_text(config.output / CONFIG_NAME, to_yaml(config))


def write_summary(
    config: PretrainConfig,
    objective: Objective,
    store: Store,
    progress: Progress,
    final: Mapping[str, float],
    best: Mapping[str, float],
    world_size: int,
    origin: Mapping[str, Any],
) -> dict[str, Any]:
    """Write and return the summary of a finished run: parameters, counters, losses, and hashes of its inputs.

    ``origin`` says whether settings changed along the way, and whether a trunk did the first steps, whose molecules and
    FLOPs are included in the counters.
    """
    last = final["valid/loss"]
    summary = {
        "name": config.name,
        "size": config.size,
        "objective": config.objective.name,
        "seed": config.seed,
        "parameters": objective.count_parameters(config.model).as_dict(),
        "steps": progress.step,
        **{key: value for key, value in asdict(progress).items() if key != "step"},
        "optimizer": config.train.optimizers,
        "global_batch_size": config.train.global_batch_size,
        "final": dict(final),
        "best": dict(best),
        UNIQUE: store.manifest.splits["train"].rows,
        "data_manifest_sha256": store.manifest_sha256,
        "validation_sha256": _validation_sha256(config.data, store),
        "objective_sha256": config.objective_sha256,
        "world_size": world_size,
        "init": None if config.init is None else {"path": str(config.init), "sha256": config.init_sha256},
        "extended_from": config.extended_from,
        "schedule": config.train.schedule,
        "keep_steps": list(config.train.keep_steps),
        **origin,
        "diverged": not math.isfinite(last) or last > DIVERGED_FACTOR * best["valid/loss"],
    }
    return summary_file.write_summary(config.output, summary)


def read_summary(folder: Path) -> Summary:
    """Return the summary that a finished run wrote.

    Raises:
        RunError: the summary is damaged, or of another version.
    """
    summary = summary_file.read_summary(folder)
    summary.value("steps", int)
    if problem := version_problem(summary.get("schema_version", 1), SUMMARY_SCHEMA_VERSION, "schema_version"):
        raise RunError(f"{folder / SUMMARY_NAME}: {problem}")
    return summary


def run_is_finished(folder: Path) -> bool:
    """Return whether a run folder holds the summary of a finished run.

    Raises:
        RunError: the summary is damaged.
    """
    return (folder / SUMMARY_NAME).is_file() and read_summary(folder).is_finished


def reopen(folder: Path) -> None:
    """Make a finished run an unfinished one; its summary and model are kept under names that contain their step."""
    if not run_is_finished(folder):
        return
    tail = f"step-{int(read_summary(folder)['steps']):08d}"
    model = folder / f"{MODEL_FOLDER}-{tail}"
    if (folder / MODEL_FOLDER).is_dir():
        shutil.rmtree(model, ignore_errors=True)  # an older one of the same step
        (folder / MODEL_FOLDER).rename(model)
    (folder / SUMMARY_NAME).rename(folder / f"{Path(SUMMARY_NAME).stem}-{tail}.json")


def _validation_sha256(data: DataConfig, store: Store) -> str:
    """Return a hash of everything that determines the validation corruptions; only runs that share it are comparable.

    A setting that is added later may enter the hash only if it differs from its default; otherwise no earlier run would
    be comparable.
    """
    split = store.manifest.splits["valid"]
    identity = {
        "shards": [shard.sha256 for shard in split.shards],
        "molecules": min(data.validation_molecules, split.rows),
        "repeats": data.validation_repeats,
        "conformers": data.conformers,
        "hydrogens": data.hydrogens,
        "window": data.window,
        "seed": VALIDATION_SEED,
    }
    return hash_json(identity)
