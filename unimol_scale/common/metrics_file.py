"""Reads metrics.jsonl, the log of a run, for the trainer, plots, scaling laws and benchmarks.

A line is an event: an object with ``step`` and numbers. Numbers that are not finite are written as null, so null means
that there is no value.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unimol_scale.common.text.json_lines import JsonLine, read_json_lines

Event = dict[str, Any]


@dataclass(frozen=True)
class Metrics:
    """The content of a metrics file.

    Attributes:
        events: in the order of the file.
        damaged: numbers of the lines that hold no event. The last line is never counted: a killed run leaves it
            incomplete, and nothing is lost.
    """

    events: tuple[Event, ...]
    damaged: tuple[int, ...]


def read_metrics(path: Path) -> Metrics:
    """Read a metrics file; lines that hold no event are left out and counted.

    Raises:
        OSError: the file cannot be read.
    """
    lines = [(line.number, event_of(line)) for line in read_json_lines(path)]
    damaged = tuple(number for number, event in lines[:-1] if event is None)
    return Metrics(tuple(event for _, event in lines if event is not None), damaged)


def event_of(line: JsonLine) -> Event | None:
    """Return the event of a line; None when the line holds none."""
    if line.value is None or number_of(line.value.get("step")) is None:
        return None
    return line.value


def number_of(value: object) -> float | None:
    """Return a logged value as a number; None for null and for whatever is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def values_by_step(events: Sequence[Event], key: str) -> dict[int, float]:
    """Return step → value of a key, in rising order of steps.

    A resumed run logs the steps since its last checkpoint again; the later line is used. Null values are left out.
    """
    found = {int(event["step"]): value for event in events if (value := number_of(event.get(key))) is not None}
    return dict(sorted(found.items()))
