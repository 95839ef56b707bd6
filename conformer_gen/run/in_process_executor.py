"""Runs a build's jobs in this process, one after another, for a few molecules that a user waits for. No Ray.

Neither Ray nor another process has to start. Nothing protects against a molecule that kills the process, hangs or
exhausts memory; the caller limits the number of atoms, ETKDG has its time limit and the force field its iterations.
"""

from collections.abc import Iterator
from pathlib import Path

from conformer_gen.config import BuildConfig
from conformer_gen.run.jobs import Chunk, Job, ShowProgress, StageWork, UnorderedMap, read_here
from conformer_gen.selection.selected_rows import Selection, read_selection
from conformer_gen.selection.selection_passes import InProcess, Passes
from conformer_gen.sources.units import Unit
from unimol_scale.common.progress import StageProgress


class InProcessExecutor:
    """Runs the jobs of a build in this process.

    Args:
        config: configuration of the build.
        show: creates the progress display of a stage.
    """

    def __init__(self, config: BuildConfig, show: ShowProgress) -> None:
        self._config, self._show = config, show

    @property
    def show(self) -> ShowProgress:
        """Creates the progress display of a stage."""
        return self._show

    @property
    def run_all(self) -> UnorderedMap:
        """Runs the jobs of assembly."""
        return map

    def select(self, work: Path) -> Selection:
        """Choose among all curated rows, or return the choice of an earlier run."""
        return read_selection(work) or Passes(work=work, config=self._config).run(InProcess())

    def read(self, units: Iterator[Unit]) -> Iterator[Chunk]:
        """Yield the chunks of all units, in order."""
        return read_here(units, self._config.task_size)

    def run_stage(self, stage: StageWork, jobs: Iterator[Job], work: Path, progress: StageProgress) -> None:
        """Run all jobs of a stage.

        Raises:
            OSError: files cannot be written.
        """
        for job in jobs:
            counted = _Counted(progress, job)
            stage.task(work, job, counted.starting)
            counted.count(len(job.positions))


class _Counted:
    """Advances the progress with every molecule of a job."""

    def __init__(self, progress: StageProgress, job: Job) -> None:
        self._progress, self._done = progress, 0
        self._places = {position: place for place, position in enumerate(job.positions)}

    def starting(self, position: int | None, molecules: int = 1) -> None:
        """Record that the molecules before a position are done."""
        if position is not None:
            self.count(self._places[position])

    def count(self, done: int) -> None:
        """Record how many molecules are done."""
        self._progress.advance(done - self._done)
        self._progress.tick()
        self._done = done
