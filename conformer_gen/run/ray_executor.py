"""Reads a build's rows and runs its jobs on Ray: a local one, or a running cluster. Imports Ray.

The driver plans and monitors; readers hand rows to tasks, which write files and return counts.
"""

import contextlib
import functools
import inspect
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.exceptions

import unimol_scale.config as strict
from conformer_gen import config as build_config
from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampledProgress
from conformer_gen.run.jobs import Chunk, Job, ShowProgress, StageWork, UnorderedMap
from conformer_gen.run.ray_reading import read_on_ray
from conformer_gen.run.ray_tasks import Stage, run_all, run_light_watched, run_watched
from conformer_gen.selection.jobs_selection import JOB_MEMORY_BYTES, select
from conformer_gen.selection.pieces import CURATED
from conformer_gen.selection.selected_rows import Selection
from conformer_gen.sources.units import Unit
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.common.progress import StageProgress
from unimol_scale.errors import StoreError

OBJECT_STORE_BYTES = 100 * 2**20  # for arguments of the running tasks; results go to files
RAY_FILES = "for its own files in RAY_TMPDIR, or in /tmp/ray by default"
CONNECT_S = 10  # for the first answer of a cluster's head
IN_FLIGHT_PER_CPU = 3  # enough that no worker waits for the driver


@contextlib.contextmanager
def on_ray(config: BuildConfig) -> Iterator["RayExecutor"]:
    """Start a quiet local Ray, or join the configured cluster, for the duration of the block.

    The nodes of a cluster receive this code, but its dependencies, RDKit first of all, must be installed there.

    Raises:
        StoreError: Ray does not start, the cluster cannot be reached, or Ray has no disk space for its own files.
    """
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "RAY_enable_metrics_collection"):
        os.environ.setdefault(name, "0")
    if config.ray_address:
        _check_port(config.ray_address)
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = config.ray_address
    try:
        if address:
            ray.init(address=address, runtime_env={"py_modules": _packages()}, **common)
        else:
            ray.init(
                address="local",
                num_cpus=config.num_workers,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **common,
            )
    except Exception as error:  # Ray raises the bare class when a node is too slow to start
        if address:
            # Ray does not say in this error that a token was missing.
            raise StoreError(
                f"Ray cannot be reached at {address}: {error}. See whether `ray status --address {address}` works in "
                "this shell. If it ends with AuthenticationError, the cluster asks for a token: set "
                "RAY_AUTH_MODE=token and use the token with which the cluster was started "
                "(docs/how-to/ray-cluster.md, Start)"
            ) from error
        raise StoreError(f"Ray does not start: {error}") from error
    try:
        yield RayExecutor(config)
    except ray.exceptions.OutOfDiskError as error:
        raise StoreError(
            f"Ray has no disk space {RAY_FILES}: free some and run the same command again to resume"
        ) from error
    finally:
        ray.shutdown()


def _check_port(address: str) -> None:
    """Refuse HOST:PORT where nothing listens: Ray itself tries for more than nine minutes. Ray judges other addresses.

    Raises:
        StoreError: nothing answers there.
    """
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise StoreError(
            f"--ray-address {address}: nothing answers there ({error.strerror or error}). Give HOST:PORT as "
            "`ray start --head` prints it, or `auto` on a node of the cluster"
        ) from error


def _packages() -> list[str]:
    """Return the folders of both packages, which every worker needs."""
    return [str(Path(inspect.getfile(module)).parent) for module in (build_config, strict)]


class RayExecutor:
    """Runs the jobs of a build on the Ray that ``on_ray`` started or joined."""

    def __init__(self, config: BuildConfig) -> None:
        self._config = config
        self._max_in_flight = IN_FLIGHT_PER_CPU * int(ray.cluster_resources().get("CPU", 1))

    @property
    def show(self) -> ShowProgress:
        """Creates the progress display of a stage."""
        return SampledProgress

    @property
    def run_all(self) -> UnorderedMap:
        """Runs the jobs of assembly."""
        return self._run_in(self._config.task_bytes)

    def _run_in(self, memory: int) -> UnorderedMap:
        return functools.partial(run_all, max_in_flight=self._max_in_flight, memory=memory)

    def select(self, work: Path) -> Selection:
        """Choose among all curated rows, or return the choice of an earlier run."""
        return select(work, self._config, self._run_in(JOB_MEMORY_BYTES))

    def read(self, units: Iterator[Unit]) -> Iterator[Chunk]:
        """Yield the chunks of all units, read by as many processes as this machine has cores for the build."""
        readers = self._config.num_workers if self._config.ray_address is None else usable_cores()
        return read_on_ray(units, self._config.task_size, readers)

    def run_stage(self, stage: StageWork, jobs: Iterator[Job], work: Path, progress: StageProgress) -> None:
        """Run all jobs of a stage.

        Raises:
            StoreError: the cluster keeps losing tasks.
            OSError: files cannot be written.
        """
        config = self._config
        cap = config.task_bytes if stage.capped else None
        remote = (run_light_watched if stage.name == CURATED else run_watched).options(memory=config.task_bytes)
        shared = ray.put(stage.task)  # once, not with every job

        def submit(job: Job) -> ray.ObjectRef:
            return remote.remote(shared, stage.name, work, job, config.limit_s, cap)

        Stage(stage.name, work, config.limit_s, submit, stage.bury).run(jobs, self._max_in_flight, progress)
