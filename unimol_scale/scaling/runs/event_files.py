"""Reads runs from TensorBoard event files, of this project or of any other trainer. Imports tensorboard when it reads.

A file is a sequence of records: length (8 bytes), its checksum (4), an Event message, its checksum (4). An incomplete
last record comes from a writer that was killed, and is ignored; a wrong checksum is an error.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unimol_scale.common.run_files import TENSORBOARD
from unimol_scale.common.summary_file import UnreadableRunError
from unimol_scale.errors import RunError, nearest
from unimol_scale.scaling.runs.counts import groups_of_size
from unimol_scale.scaling.runs.run_records import GROUPS, LOSS, RunRecord, curve_of, decays_of, diverged

PATTERN = "events.out.tfevents."
# Quantity → tags of this project under which it may be logged, present ones first.
TAGS: Mapping[str, tuple[str, ...]] = {
    "N": (),
    "D": ("progress/molecules", "molecules"),
    "C": ("progress/flops", "flops"),
    "loss": (LOSS,),
    "lr": ("train/lr", "lr"),
}
STEP_TIMES = "step*"  # D given as a number of molecules per step
CUT_OFF = 0.1  # a decaying learning rate that ends above this fraction of its peak was cut off


def has_event_files(names: list[str]) -> bool:
    """Return whether a folder with these file names holds event files."""
    return any(PATTERN in name for name in names)


def name_of(folder: Path) -> str:
    """Return the name of a run: that of its folder, or of the parent folder if it is called ``tensorboard``."""
    return folder.parent.name if folder.name == TENSORBOARD else folder.name


def read_event_folder(
    folder: Path, tags: Mapping[str, str], sizes: Mapping[str, str]
) -> tuple[RunRecord | None, list[str]]:
    """Read the event files of all sessions of one run.

    Args:
        folder: folder of the files.
        tags: one of ``TAGS`` → its tag; the others are looked up under this project's own tags. D as "step*BATCH"
            counts molecules by steps.
        sizes: name of a run → its size, a preset or a number of parameters; needed if no tag gives N.

    Returns:
        The run at its last validation, or None if it is left out; and notes on it.

    Raises:
        RunError: a tag or the size is missing.
        UnreadableRunError: a file is damaged.
    """
    name = name_of(folder)
    for key in tags:
        if key not in TAGS:
            raise RunError(f"unknown column {key!r} for event files; {nearest(key, TAGS)}")
    series = _read_series(folder)
    usual = {key: next((tag for tag in known if tag in series), (*known, "")[0]) for key, known in TAGS.items()}
    chosen = {**usual, **tags}
    losses = _tag(series, chosen["loss"], "loss", folder)
    molecules = _molecules(series, chosen["D"], folder)
    groups = _groups(series, chosen["N"], sizes, name, folder)
    events: dict[float, dict[str, float]] = {}
    for step, loss in losses.items():
        terms = {tag: values[step] for tag, values in series.items() if tag.startswith(f"{LOSS}/") and step in values}
        events[molecules(step)] = {LOSS: loss, **terms}
    curve, curve_terms = curve_of(events)
    if diverged(curve):
        return None, [f"{folder}: left out because it diverged"]
    flops = series.get(chosen["C"], {})
    last = max(losses)
    rates = series.get(chosen["lr"], {})
    decays = decays_of({float(step): rate for step, rate in rates.items()})
    record = RunRecord(
        name=name,
        source=str(folder),
        size=sizes.get(name),
        parameters=groups["total"],
        groups={group: groups[group] for group in GROUPS} if set(GROUPS) <= set(groups) else {},
        molecules=curve[-1][0],
        steps=last,
        flops=flops[max(flops)] * curve[-1][0] / molecules(max(flops)) if flops else None,
        loss=curve[-1][1],
        terms={term: values[-1] for term, values in curve_terms.items()},
        curve=curve,
        curve_terms=curve_terms,
        decays=decays,
    )
    return record, _cut_off(rates, folder) if decays else []


def _cut_off(rates: Mapping[int, float], folder: Path) -> list[str]:
    share = rates[max(rates)] / max(rates.values())
    if share <= CUT_OFF:
        return []
    return [
        f"{folder}: its learning rate ends at {share:.0%} of its peak, so its last loss may be from the middle of the "
        "decay; leave out the run if it did not finish"
    ]


def _tag(series: Mapping[str, Mapping[int, float]], tag: str, key: str, folder: Path) -> Mapping[int, float]:
    if tag not in series:
        raise RunError(
            f"{folder} logs no {tag!r} for {key}; name its tag with --column {key}=TAG; {nearest(tag, series)}"
        )
    return series[tag]


def _molecules(series: Mapping[str, Mapping[int, float]], tag: str, folder: Path) -> Any:  # noqa: ANN401
    """Return the function from a step to the molecules seen by then."""
    if tag.startswith(STEP_TIMES):
        try:
            batch = float(tag.removeprefix(STEP_TIMES))
        except ValueError:
            batch = 0.0
        if not batch > 0:
            raise RunError(f"--column D={tag}: give the molecules of a step as a number, such as D=step*1024")
        return lambda step: step * batch
    counted = _tag(series, tag, "D", folder)

    def at(step: int) -> float:
        if step not in counted:
            raise RunError(f"{folder} logs a loss at step {step} but not {tag!r}; use --column D=step*BATCH")
        return counted[step]

    return at


def _groups(
    series: Mapping[str, Mapping[int, float]], tag: str, sizes: Mapping[str, str], name: str, folder: Path
) -> Mapping[str, float]:
    if name in sizes:
        return groups_of_size(sizes[name])
    if not tag:
        raise RunError(
            f"{folder}: event files do not record the size of the model; give --size-of {name}=SIZE, a preset or a "
            "number of parameters, or the tag that holds it with --column N=TAG"
        )
    values = _tag(series, tag, "N", folder)
    return {"total": values[max(values)]}


@dataclass
class _Session:
    """Events of one start of a trainer.

    Attributes:
        host: host whose clock gave the file its name; clocks of several hosts may disagree.
        first_step: step from which it replaces earlier sessions; None if the file does not say.
        values: tag → step → value.
    """

    host: str
    first_step: int | None
    values: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """Step by which sessions are ordered."""
        first = min((step for values in self.values.values() for step in values), default=0)
        return first if self.first_step is None else self.first_step


def _read_series(folder: Path) -> dict[str, dict[int, float]]:
    """Return tag → step → value over all files of a folder.

    On one host, a session replaces the events of earlier sessions from its first step on. The clocks of several hosts
    may disagree: if sessions of different hosts logged the same step, the one with the later first step counts (for
    equal first steps, the one with the later file name), and no step is dropped.
    """
    paths = sorted((path for path in folder.iterdir() if PATTERN in path.name), key=_written)
    sessions = [session for path in paths for session in _sessions(path)]
    series: dict[str, dict[int, float]] = {}
    for place in sorted(range(len(sessions)), key=lambda place: (sessions[place].start, place)):
        session = sessions[place]
        later = [other for other in sessions[place + 1 :] if _replaces(other, session, sessions[:place])]
        end = min((other.start for other in later), default=None)
        for tag, values in session.values.items():
            kept = {step: value for step, value in values.items() if end is None or step < end}
            series.setdefault(tag, {}).update(kept)
    return {tag: values for tag, values in series.items() if values}


def _replaces(later: _Session, earlier: _Session, before: Sequence[_Session]) -> bool:
    """Return whether a session replaces an earlier one by the clock; ``before`` are the sessions before both."""
    if later.first_step is None or later.host != earlier.host:
        return False
    # A resumed session continues another one; if there is no earlier one, the clock was set back in between.
    return later.first_step >= earlier.start or any(other.start < earlier.start for other in before)


def _written(path: Path) -> tuple[float, str]:
    """Return the sort key of a file: the time in its name, events.out.tfevents.TIME.HOST.PID.N."""
    time = path.name.partition(PATTERN)[2].partition(".")[0]
    return (float(time) if time.isdigit() else 0.0, path.name)


def _host(path: Path) -> str:
    words = path.name.partition(PATTERN)[2].split(".")[1:]
    while words and (words[-1].isdigit() or words[-1] == "v2"):
        words.pop()
    return ".".join(words)


def _sessions(path: Path) -> list[_Session]:
    """Return the sessions of one file, in order; usually there is one."""
    from tensorboard.compat.proto.event_pb2 import SessionLog

    sessions = [_Session(_host(path), None)]
    for event in _events(path):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            sessions.append(_Session(_host(path), int(event.step)))
        for value in event.summary.value if event.HasField("summary") else ():
            number = _scalar(value)
            if number is not None:
                sessions[-1].values.setdefault(value.tag, {})[int(event.step)] = number
    return [session for session in sessions if session.values or session.first_step is not None]


def _scalar(value: Any) -> float | None:  # noqa: ANN401
    if value.HasField("simple_value"):
        return float(value.simple_value)
    if value.HasField("tensor"):
        from tensorboard.util.tensor_util import make_ndarray

        array = make_ndarray(value.tensor)
        if array.size == 1 and array.dtype.kind in "fiu":
            return float(array.reshape(()))
    return None


def _events(path: Path) -> Iterator[Any]:
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped, unused-ignore]
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableRunError(f"{path} cannot be read: {error.strerror}") from error
    position = 0
    while position + 12 <= len(data):
        head = data[position : position + 8]
        length, check = struct.unpack("<QI", data[position : position + 12])
        if masked_crc32c(head) != check:
            raise UnreadableRunError(f"{path} is damaged at byte {position}; leave out the run or copy the file again")
        body = data[position + 12 : position + 12 + length]
        ending = data[position + 12 + length : position + 16 + length]
        if len(ending) < 4:
            return
        if masked_crc32c(body) != struct.unpack("<I", ending)[0]:
            raise UnreadableRunError(
                f"{path} is damaged after byte {position}; leave out the run or copy the file again"
            )
        try:
            yield Event.FromString(body)
        except DecodeError as error:
            raise UnreadableRunError(f"{path} holds no TensorBoard events: {error}") from error
        position += 16 + length
