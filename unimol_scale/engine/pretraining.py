"""Runs a pretraining from its settings to its end, for the command and for Python. Never ends the process."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unimol_scale.common.machine.system_limits import require_open_files
from unimol_scale.common.output_checks import require_folder
from unimol_scale.data.dataset import open_store_of
from unimol_scale.engine.objective_setup import unprepared_teacher, with_teacher_named
from unimol_scale.engine.parallel.ranks import RANK_VARIABLES, Ranks, leave_ranks, start_ranks
from unimol_scale.engine.run.initial_weights import with_init_named
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.run_folder import read_summary, run_is_finished
from unimol_scale.engine.run.settings_changes import nothing_left
from unimol_scale.engine.run.stopping import InterruptRequest, StopRequest
from unimol_scale.engine.trainer import SessionStatus, Trainer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainingEnd:
    """How a call of ``pretrain`` ended.

    Attributes:
        config: configuration of the run, fully filled in.
        how: ``finished``; ``finished before``: there was nothing to do; or ``stopped``: the same call resumes it.
        summary: summary of the finished run, as in ``summary.json``; None if it was stopped. If the run has just
            finished, only the main rank has it, because other nodes' file systems may not show the file yet.
    """

    config: PretrainConfig
    how: Literal["finished", "finished before", "stopped"]
    summary: Mapping[str, Any] | None


def with_sources_named(config: PretrainConfig) -> PretrainConfig:
    """Return the configuration with the hashes of the initial weights and of the teacher filled in.

    Raises:
        CheckpointError: one of these models is missing, has other dimensions, or does not match the given hash.
    """
    return with_init_named(with_teacher_named(config))


def pretrain(
    config: PretrainConfig,
    stop: StopRequest | None = None,
    *,
    resume: bool = True,
    override: bool = False,
    profile: bool = False,
    failed: Callable[[Ranks, BaseException], None] | None = None,
) -> PretrainingEnd:
    """Train a run to its end, or resume it; every rank calls this.

    Args:
        config: configuration of the run.
        stop: receives requests to stop. None: this process does more than the run, such as a notebook's; Ctrl-C then
            stops the run after the current step, with a checkpoint, and the caller continues.
        resume: continue from what the run folder holds.
        override: continue even if the checkpoint was trained with other settings.
        profile: record a few steps with torch's profiler.
        failed: called with an error before it is raised, if the ranks are already connected. A failed rank must not
            leave the others waiting, so the command ends its process in this function.

    Returns:
        How the call ended, on every rank.

    Raises:
        UnimolScaleError: see ``with_sources_named``, ``start_ranks``, ``Trainer`` and ``Trainer.run``; or the run
            folder cannot be written, or holds a finished run of other settings.
        KeyboardInterrupt: Ctrl-C was pressed before the first step, or a second time.
    """
    config = with_sources_named(config)
    if _is_done(config):
        return PretrainingEnd(config=config, how="finished before", summary=read_summary(config.output))
    if os.environ.get("RANK", "0") == "0":
        require_folder(config.output)
        if warning := unprepared_teacher(config):
            _log.warning(warning)
    # Each loader process and each batch in transit takes a few descriptors, and so do those of the validation.
    require_open_files(32 + 2 * config.data.workers * (config.data.prefetch + 4))
    with _kept_environment(), InterruptRequest() if stop is None else contextlib.nullcontext(stop) as stopping:
        ranks = start_ranks(config.zero.timeout_minutes)
        trainer = None
        try:
            trainer = Trainer(config, ranks)
            outcome = trainer.run(stopping, resume=resume, override=override, profile=profile)
        except BaseException as error:
            if failed is not None:
                failed(ranks, error)
            raise
        finally:
            if trainer is not None:  # a notebook keeps the last error, and could not start the run again otherwise
                trainer.close()
        # A single process may start further runs, and DeepSpeed allows one process group per process.
        if ranks.world_size > 1:
            leave_ranks()
    if outcome is SessionStatus.STOPPED:
        return PretrainingEnd(config=config, how="stopped", summary=None)
    return PretrainingEnd(config=config, how="finished", summary=read_summary(config.output) if ranks.is_main else None)


def _is_done(config: PretrainConfig) -> bool:
    """Return whether the run's folder holds exactly this run, finished."""
    if not run_is_finished(config.output):
        return False
    return nothing_left(config, read_summary(config.output), open_store_of(config.data).manifest_sha256)


@contextlib.contextmanager
def _kept_environment() -> Iterator[None]:
    """Restore the variables that a single process sets for its ranks, so that child processes do not join this run."""
    before = {name: os.environ.get(name) for name in RANK_VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
