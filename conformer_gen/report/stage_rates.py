"""The rate of a build over time, from the samples that its runs left in ``progress.jsonl``. Imports NumPy only."""

import array
import dataclasses
from pathlib import Path

import numpy as np

from unimol_scale.common.text.json_lines import read_json_lines
from unimol_scale.store.schema import Float64

# A task reports all of its molecules when it ends, so a window spans a few tasks; otherwise the rate would be spiky.
SAMPLES_A_WINDOW, MOST_WINDOWS = 3, 80
# Names of the stages in samples, of this version and of earlier ones.
CURATING, GENERATING, DRAWING = "curating", "generating conformers", "drawing 2D depictions"
FORMER_NAMES = {"embedding": GENERATING}


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageRate:
    """How fast one stage went, over all runs that worked on it, joined end to end.

    Attributes:
        stage: its name.
        molecules: molecules done in the time that the samples cover.
        edges: [W + 1] seconds of work on the stage; window w lasts from edges[w] to edges[w + 1].
        rates: [W] molecules/s.
        resumed: seconds of work after which another run resumed the stage.
    """

    stage: str
    molecules: int
    edges: Float64
    rates: Float64
    resumed: tuple[float, ...]


class _Samples:
    """The samples of one stage, on a clock that stops between runs."""

    def __init__(self) -> None:
        self.seconds, self.molecules = array.array("d"), array.array("d")
        self.resumed: list[float] = []
        self._run = -1
        self._last = (0.0, 0.0)

    def add(self, run: int, seconds: float, molecules: float) -> None:
        at, done = (self.seconds[-1], self.molecules[-1]) if self.seconds else (0.0, 0.0)
        if run != self._run:
            if self.seconds:
                self.resumed.append(at)
            self._run = run
        else:
            at, done = at + seconds - self._last[0], done + molecules - self._last[1]
        self.seconds.append(at)
        self.molecules.append(done)
        self._last = (seconds, molecules)


def read_rates(path: Path) -> list[StageRate]:
    """Return, in order, the rate of every stage with samples at two or more times; [] if there is no file.

    A line is {"seconds": since its run began, "stage": name, "molecules": done by then}. A time smaller than the one
    before starts another run. A line damaged by a killed run is skipped.
    """
    stages: dict[str, _Samples] = {}
    run, clock = 0, 0.0
    if not path.is_file():
        return []
    for line in read_json_lines(path):
        match line.value:
            case {"seconds": int() | float() as seconds, "stage": str() as stage, "molecules": int() | float() as done}:
                run += seconds < clock
                clock = seconds
                stages.setdefault(FORMER_NAMES.get(stage, stage), _Samples()).add(run, clock, int(done))
    return [_windows(stage, samples) for stage, samples in stages.items() if samples.seconds[-1] > 0]


def _windows(stage: str, samples: _Samples) -> StageRate:
    seconds, molecules = np.array(samples.seconds), np.array(samples.molecules)
    advances = int(np.count_nonzero(np.diff(molecules)))
    edges = np.linspace(0, seconds[-1], 1 + min(max(advances // SAMPLES_A_WINDOW, 1), MOST_WINDOWS))
    return StageRate(
        stage=stage,
        molecules=int(molecules[-1]),
        edges=edges,
        rates=np.diff(np.interp(edges, seconds, molecules)) / np.diff(edges),
        resumed=tuple(samples.resumed),
    )
