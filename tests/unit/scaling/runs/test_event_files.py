"""Runs known by their TensorBoard event files alone, of this project's trainer and of others."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from unimol_scale.engine.log.tensorboard import Board
from unimol_scale.errors import RunError
from unimol_scale.scaling.runs.event_files import _sessions, read_event_folder
from unimol_scale.scaling.law.points import make_points
from unimol_scale.scaling.runs.read_runs import read_runs

BATCH = 64
SIZES = {"small": "1M"}


def events(last: int, rate: float = 0.0, loss: float = 0.5) -> list[dict[str, float]]:
    return [
        {
            "step": step,
            "molecules": step * BATCH,
            "flops": step * 3.0e9,
            "lr": 1e-3 + (rate - 1e-3) * step / last,
            "valid/loss": loss + 10.0 / step,
            "valid/loss/token": loss / 2 + 5.0 / step,
        }
        for step in range(10, last + 1, 10)
    ]


def write(folder: Path, logged: list[dict[str, float]], first_step: int = 0) -> Path:
    said: list[str] = []
    board = Board(folder, first_step, said.append)
    for event in logged:
        board.event(event)
    board.close()
    assert not said
    return folder


def read(folder: Path, **tags: str):
    return read_event_folder(folder, tags, {"small": "1M"})


def test_event_files_of_our_own_runs_need_a_size_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "small" / "tensorboard", events(100))
    (record,), notes = read_runs([tmp_path], sizes=SIZES)
    assert notes == []
    assert (record.name, record.size, record.steps, record.molecules) == ("small", "1M", 100, 100 * BATCH)
    assert record.parameters == sum(record.groups.values()) > 5e5
    assert record.loss == pytest.approx(0.6)
    assert record.terms["token"] == pytest.approx(0.3)
    assert record.flops == pytest.approx(3.0e11)
    assert len(record.curve) == len(record.curve_terms["token"]) == 10
    assert record.decays is True


def test_a_later_session_replaces_what_an_earlier_one_logged_from_its_first_step_on(tmp_path: Path) -> None:
    write(tmp_path / "small", events(100, loss=9.0))
    write(tmp_path / "small", [event for event in events(60) if event["step"] > 50], first_step=51)
    record, _ = read(tmp_path / "small")
    assert record.steps == 60
    assert record.loss == pytest.approx(0.5 + 10 / 60)
    assert record.curve[4][1] == pytest.approx(9.2)


def rename(folder: Path, sessions: dict[int, str]) -> None:
    """Give the files of a folder, found by their first step, the time and host of another clock."""
    for path in list(folder.iterdir()):
        first = min(step for values in _read_series_of(path).values() for step in values)
        path.rename(folder / f"events.out.tfevents.{sessions[first]}.1.0")


def _read_series_of(path: Path) -> dict[str, dict[int, float]]:
    (session,) = _sessions(path)
    return session.values


@pytest.mark.parametrize(
    "clocks",
    [
        pytest.param({10: "2000.node1", 60: "1000.node2"}, id="the clock of the second host is behind"),
        pytest.param({10: "1000.node1", 60: "2000.node2"}, id="the clocks agree"),
        pytest.param({10: "1000.node1", 60: "2000.node1"}, id="one host"),
        pytest.param({10: "2000.node1", 60: "1000.node1"}, id="one host whose clock was set back"),
        pytest.param({10: "10000.node1", 60: "9000.node2"}, id="times of other lengths"),
    ],
)
def test_clocks_that_disagree_lose_no_step_of_a_resumed_run(tmp_path: Path, clocks: dict[int, str]) -> None:
    folder = tmp_path / "small"
    write(folder, events(70, loss=0.6))
    write(folder, [event for event in events(120) if event["step"] > 50], first_step=51)
    rename(folder, clocks)
    record, _ = read(folder)
    assert (record.steps, len(record.curve)) == (120, 12)
    losses = [loss for _, loss in record.curve]
    assert losses[:5] == pytest.approx([0.6 + 10 / step for step in range(10, 60, 10)])
    assert losses[5:] == pytest.approx([0.5 + 10 / step for step in range(60, 130, 10)])


def test_a_loss_that_was_not_finite_for_once_is_no_point_along_the_run(tmp_path: Path) -> None:
    logged = events(100)
    logged[4]["valid/loss"] = float("nan")
    record, _ = read(write(tmp_path / "small", logged))
    assert len(make_points([record], "total", burn_in=0.0)) == 9


def test_of_two_sessions_from_one_step_neither_loses_its_own_steps(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    write(folder, events(40, loss=0.6))
    (first,) = folder.iterdir()
    first.rename(folder / "events.out.tfevents.2000.node1.1.0")
    write(folder, events(100))
    (second,) = [path for path in folder.iterdir() if "node1" not in path.name]
    second.rename(folder / "events.out.tfevents.1000.node2.1.0")
    record, _ = read(folder)
    assert (record.steps, len(record.curve)) == (100, 10)


def test_a_damaged_event_file_leaves_its_run_out_and_the_others_in(tmp_path: Path) -> None:
    write(tmp_path / "large", events(100, loss=0.4))
    (path,) = write(tmp_path / "small", events(100)).iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    (record,), notes = read_runs([tmp_path], sizes={"small": "1M", "large": "2e6"})
    assert record.name == "large"
    assert "small: left out" in notes[0]
    assert "is damaged" in notes[0]


def test_other_peoples_tags_and_tensor_summaries_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    with (folder / "events.out.tfevents.1.host").open("wb") as file:
        for step in (100, 200):
            tensor = make_tensor_proto(np.float32(1000.0 / step))
            values = [Summary.Value(tag="eval_loss", tensor=tensor), Summary.Value(tag="n", simple_value=5e6)]
            RecordWriter(file).write(Event(step=step, summary=Summary(value=values)).SerializeToString())
    record, _ = read(folder, loss="eval_loss", N="n", D="step*32")
    assert (record.parameters, record.molecules, record.loss, record.flops) == (5e6, 6400, 5.0, None)
    assert record.decays is None


def test_a_file_that_ends_early_counts_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "small", events(100))
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert read(folder)[0].steps == 90
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    with pytest.raises(RunError, match="is damaged"):
        read(folder)


def test_a_run_that_was_cut_off_in_mid_decay_is_told(tmp_path: Path) -> None:
    write(tmp_path / "small", events(100, rate=5e-4))
    _, notes = read(tmp_path / "small")
    assert "ends at 53% of its peak" in notes[0]


def test_that_losses_of_event_files_compare_is_taken_on_trust_and_said(tmp_path: Path) -> None:
    write(tmp_path / "small", events(100))
    write(tmp_path / "large", events(100, loss=0.4))
    _, notes = read_runs([tmp_path], sizes={"small": "1M", "large": "2e6"})
    assert "assumed to be comparable" in notes[0]


def test_a_diverged_run_is_left_out_with_a_note(tmp_path: Path) -> None:
    write(tmp_path / "small", [*events(100), {**events(100)[-1], "step": 110, "molecules": 7040, "valid/loss": 3.0}])
    record, notes = read(tmp_path / "small")
    assert record is None
    assert "left out because it diverged" in notes[0]


@pytest.mark.parametrize(
    ("tags", "sizes", "message"),
    [
        ({}, {}, r"do not record the size of the model; give --size-of small=SIZE"),
        ({}, {"small": "1.1G"}, r"unknown size '1\.1G'"),
        ({"loss": "valid/los"}, SIZES, "logs no 'valid/los' for loss.*did you mean 'valid/loss'"),
        ({"D": "step*many"}, SIZES, r"D=step\*many: give the molecules of a step"),
        ({"name": "x"}, SIZES, "unknown column 'name' for event files"),
    ],
)
def test_what_event_files_do_not_say_is_asked_for(
    tmp_path: Path, tags: dict[str, str], sizes: dict[str, str], message: str
) -> None:
    folder = write(tmp_path / "small", events(100))
    with pytest.raises(RunError, match=message):
        read_event_folder(folder, tags, sizes)


def test_a_run_folder_counts_before_its_event_files(tmp_path: Path) -> None:
    from tests.helpers.simulated_runs import write_run

    folder = write_run(tmp_path / "one", "1M", 100)
    write(folder / "tensorboard", events(50))
    (record,), _ = read_runs([tmp_path])
    assert record.steps == 100
    with pytest.raises(RunError, match="--size-of one: there is no run of that name with only event files"):
        read_runs([tmp_path], sizes={"one": "1M"})
    shutil.rmtree(folder / "tensorboard")
