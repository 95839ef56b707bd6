"""How a fault run is judged: planned kills, their outcome, curves that must agree, and the table."""

import collections
import dataclasses
import random
import statistics
from collections.abc import Mapping, Sequence

from unimol_scale.engine.spikes import SpikeDetector

NUM_RANKS = 2
SPIKE_WINDOW = 16
SAVE, BETWEEN, START = "during a save", "between saves", "while it starts"
ALL = -1  # the launcher and all ranks


@dataclasses.dataclass(frozen=True)
class Kill:
    """A planned SIGKILL.

    Attributes:
        victim: a rank, or ``ALL``.
        moment: ``SAVE``, ``BETWEEN`` or ``START``.
        step: kill only after this step is done.
        delay: how far into the moment, from 0 to 1.
    """

    victim: int
    moment: str
    step: int
    delay: float

    @property
    def fault(self) -> str:
        """Its name in the table."""
        whom = "launcher and ranks" if self.victim == ALL else f"rank {self.victim}"
        return f"kill -9 of {whom} {self.moment}"


def plan_kills(number: int, seed: int) -> list[Kill]:
    """Return kills in the order of their steps: ``number`` at each rank, half of them during a save, some at all."""
    generator = random.Random(seed)
    kinds = []
    for victim, times in (*((rank, number) for rank in range(NUM_RANKS)), (ALL, max(2, number // 5))):
        starts = times // 6
        saves = -(-times // 2)
        moments = [SAVE] * saves + [START] * starts + [BETWEEN] * (times - saves - starts)
        kinds += [(victim, moment) for moment in moments]
    generator.shuffle(kinds)
    kills, step = [], 0
    for victim, moment in kinds:
        step += 0 if moment == START else generator.randint(2, 6)
        kills.append(Kill(victim, moment, step, generator.random()))
    return kills


@dataclasses.dataclass(frozen=True)
class Trial:
    """One fault, once.

    Attributes:
        fault: what was done.
        problem: how the outcome differs from the expected one; "" if it does not.
        steps_again: steps that had to be repeated; None where none can be lost.
        seconds: time from the kill until no process was left.
        message: the message of the run.
    """

    fault: str
    problem: str
    steps_again: int | None = None
    seconds: float | None = None
    message: str = ""

    def __str__(self) -> str:
        told = [self.problem or "as expected"]
        told += [f"{self.steps_again} steps repeated"] if self.steps_again is not None else []
        told += [f"stopped after {self.seconds:.1f} s"] if self.seconds is not None else []
        return f"{self.fault}: {', '.join(told)}"


def first_problem(checks: list[tuple[bool, str]]) -> str:
    """Return the text of the first check that is true, "" if none is."""
    return next((text for wrong, text in checks if wrong), "")


def differing(
    found: Mapping[str, Mapping[int, float]], truth: Mapping[str, Mapping[int, float]], tolerance: float = 0.0
) -> list[str]:
    """Return where a curve leaves the undisturbed one, "key at step": a value differs, or is there and should not be.

    Args:
        found: of a run, which may have fewer steps.
        truth: of the undisturbed run.
        tolerance: relative; 0 asks for the same bits.
    """
    last = max(found["loss"], default=0)
    places = []
    for key, values in truth.items():
        for step in sorted({*found[key], *(step for step in values if step <= last)}):
            one, other = found[key].get(step), values.get(step)
            if one is None or other is None or abs(one - other) > tolerance * abs(other):
                places.append(f"{key} at {step}")
    return places


def spike_factor(losses: list[float]) -> float:
    """Return about the largest factor with which one of the losses counts as a sudden rise."""
    least, most = 1e-6, 100.0
    for _ in range(40):
        middle = (least * most) ** 0.5
        detector = SpikeDetector(SPIKE_WINDOW, middle)
        least, most = (middle, most) if any([detector.observe(loss) for loss in losses]) else (least, middle)
    return least


def table(trials: Sequence[Trial]) -> list[str]:
    """Return the rows of the table: fault, how often tried, outcome."""
    groups: dict[str, list[Trial]] = collections.defaultdict(list)
    for trial in trials:
        groups[trial.fault].append(trial)
    rows = [
        "| fault | tried | as expected | steps repeated (median, most) | seconds to stop (median, most) | message |",
        "|---|---|---|---|---|---|",
    ]
    for fault, group in groups.items():
        problems = [trial.problem for trial in group if trial.problem]
        verdict = "yes" if not problems else f"**no** ({len(problems)}): {'; '.join(dict.fromkeys(problems))}"
        messages = dict.fromkeys(trial.message for trial in group if trial.message)
        rows.append(
            f"| {fault} | {len(group)} | {verdict} | {_spread([trial.steps_again for trial in group], '.0f')} | "
            f"{_spread([trial.seconds for trial in group], '.1f')} | {next(iter(messages), '').replace('|', '/')} |"
        )
    return rows


def _spread(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median_high(known):{form}}, {max(known):{form}}" if known else ""
