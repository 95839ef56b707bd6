"""Samples of a build's progress, appended to a file during the build; rates over time are computed from them."""

import json
import time
from pathlib import Path
from types import TracebackType

from unimol_scale.common.progress import StageProgress

SAMPLES_NAME = "progress.jsonl"
SAMPLE_INTERVAL_S = 1.0
SAMPLE_SPACING = 0.002  # fraction of the time a stage has taken so far: a month gives some thousands of samples


class SampleLog:
    """Appends {"seconds": since this log was opened, "stage": name, "molecules": done since then} to a file.

    Args:
        path: the file; resumed runs append to the same file.
    """

    def __init__(self, path: Path) -> None:
        cut_off = path.is_file() and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._start = time.monotonic()
        if cut_off:  # the last line, if the process was killed while writing it
            self._file.write("\n")

    def __enter__(self) -> "SampleLog":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def add(self, stage: str, molecules: int) -> None:
        """Append a sample."""
        seconds = round(time.monotonic() - self._start, 2)
        self._file.write(json.dumps({"seconds": seconds, "stage": stage, "molecules": molecules}) + "\n")


class SampledProgress(StageProgress):
    """The progress of a stage of a build, sampled into a log.

    Args:
        label: label of the stage, such as "curating".
        total: molecules in the stage; None if unknown beforehand.
        log: receives the samples; None takes no samples.
    """

    def __init__(self, label: str, total: int | None, log: SampleLog | None = None) -> None:
        super().__init__(label, total)
        self._stage, self._log = label, log
        self._began = self._sampled = time.monotonic()

    def __enter__(self) -> "SampledProgress":
        super().__enter__()
        self._sample()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        super().__exit__(kind, error, tb)
        if kind is None:
            self._sample()

    def tick(self) -> None:
        """Refresh the bar or print a new line, and take a sample if enough time has passed since the last one."""
        super().tick()
        now = time.monotonic()
        if now - self._sampled >= max(SAMPLE_INTERVAL_S, SAMPLE_SPACING * (now - self._began)):
            self._sample()

    def _sample(self) -> None:
        self._sampled = time.monotonic()
        if self._log is not None:
            self._log.add(self._stage, self.advanced)  # without what an earlier run did, which would distort the rate
