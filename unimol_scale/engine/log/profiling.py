"""Profiles a few steps with torch's profiler: a trace, and a table of where the time of a step goes.

Profiling one rank is enough: all ranks run the same modules on micro-batches of nearly equal cost, and time spent
waiting for others shows in the collectives. Tracing costs memory and time while it runs, and nothing otherwise.
"""

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch.profiler import ProfilerActivity, profile, schedule

TRACE_NAME = "trace.json.gz"
TABLE_NAME = "operators.txt"
# Steps of a session: first not traced, then traced but discarded (the tracer itself warms up in them), then kept.
SKIPPED_STEPS, WARMUP_STEPS, TRACED_STEPS = 2, 2, 3
_TABLE_ROWS = 40


class StepProfiler:
    """Profiles early steps of a session, after a warm-up. A context manager; call ``step`` after every step.

    Args:
        folder: where trace and table are written; created if needed. None profiles nothing.
        tell: receives a message on where the profile is, or why there is none.
    """

    def __init__(self, folder: Path | None, tell: Callable[[str], None] = print) -> None:
        self._folder = folder
        self._tell = tell
        self._profile: profile | None = None
        self._steps = 0

    def __enter__(self) -> "StepProfiler":
        if self._folder is not None:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            plan = schedule(wait=SKIPPED_STEPS, warmup=WARMUP_STEPS, active=TRACED_STEPS, repeat=1)
            self._profile = profile(activities=activities, schedule=plan, acc_events=True)
            self._profile.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._profile is not None:
            self._finish(self._profile)

    def step(self) -> None:
        """Mark the end of a training step."""
        if self._profile is None:
            return
        self._steps += 1
        if self._steps < SKIPPED_STEPS + WARMUP_STEPS + TRACED_STEPS:
            self._profile.step()
        else:
            self._finish(self._profile)

    def _finish(self, traced: profile) -> None:
        assert self._folder is not None
        self._profile = None
        first = SKIPPED_STEPS + WARMUP_STEPS
        traced.stop()
        if self._steps <= first:
            self._tell(
                f"no profile: the session ended after {self._steps} steps; the first to be traced is {first + 1}"
            )
            return
        try:
            self._write(traced, self._folder)
        except OSError as error:
            self._tell(f"warning: the profile cannot be written: {error}")
        else:
            self._tell(f"profile of steps {first + 1} to {self._steps} of this session: {self._folder}/")

    def _write(self, traced: profile, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        raw, packed = folder / "trace.json", folder / (TRACE_NAME + ".tmp")
        traced.export_chrome_trace(str(raw))
        with raw.open("rb") as source, gzip.open(packed, "wb", compresslevel=3) as target:
            shutil.copyfileobj(source, target)
        raw.unlink()
        packed.replace(folder / TRACE_NAME)
        order = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = traced.key_averages().table(sort_by=order, row_limit=_TABLE_ROWS, max_name_column_width=60)
        (folder / TABLE_NAME).write_text(table + "\n", encoding="utf-8")
