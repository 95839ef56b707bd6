"""metrics.jsonl holds whole lines only, loses none to a full disk, and forgets what a resumed run does again."""

import json

import pytest

from tests.helpers.full_disk import files_no_larger_than
from unimol_scale.common.metrics_file import read_metrics
from unimol_scale.engine.log.jsonl import WholeAppends, drop_events_after, encode


def write(path, steps, tail=b""):
    path.write_bytes(b"".join(encode({"step": step, "loss": 1.0}) for step in steps) + tail)


def steps_of(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_run_forgets_the_steps_that_it_does_again(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [0, 2, 4, 4, 6])
    assert drop_events_after(path, 4) == {"step": 4, "loss": 1.0}
    assert steps_of(path) == [0, 2, 4, 4]


def test_a_run_that_starts_again_keeps_nothing_not_even_its_first_validation(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [0, 2])
    assert drop_events_after(path, 0) is None
    assert steps_of(path) == []
    assert drop_events_after(tmp_path / "absent.jsonl", 5) is None


@pytest.mark.parametrize("tail", [b'{"step": 6, "lo', b"\0" * 40, b'{"step": 6, "name": "\xc3', b"6"])
def test_a_line_that_a_kill_spoilt_is_dropped_and_the_others_stay(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    write(path, [0, 2, 4], tail)
    assert [event["step"] for event in read_metrics(path).events] == [0, 2, 4]
    drop_events_after(path, 100)
    assert steps_of(path) == [0, 2, 4]


def test_nothing_is_written_when_nothing_is_to_be_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [0, 2, 4])
    with files_no_larger_than(0):
        drop_events_after(path, 4)
    assert steps_of(path) == [0, 2, 4]


def test_a_full_disk_is_told_once_and_no_event_is_lost(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []
    file = WholeAppends(path, told.append)
    with files_no_larger_than(1000):  # no multiple of a line: one is cut short
        for step in range(100):
            file.append(encode({"step": step, "loss": 0.5}))
        during = steps_of(path)
        assert len(told) == 1
    assert during == list(range(len(during)))
    assert 10 < len(during) < 100
    assert path.read_bytes().endswith(b"\n")
    assert str(path) in told[0]
    assert "large" in told[0] or "space" in told[0]
    file.append(encode({"step": 100, "loss": 0.5}))
    assert steps_of(path) == list(range(101))
    assert len(told) == 2
    file.close()


def test_events_that_never_found_room_are_counted_at_the_end(tmp_path):
    told = []
    file = WholeAppends(tmp_path / "metrics.jsonl", told.append)
    with files_no_larger_than(0):
        for step in range(3):
            file.append(encode({"step": step}))
        file.close()
    assert "3 events" in told[-1]
    assert "lost" in told[-1]


def test_a_file_is_continued_where_it_ends(tmp_path):
    path, told = tmp_path / "metrics.jsonl", []
    write(path, [1, 2])
    file = WholeAppends(path, told.append)
    with files_no_larger_than(path.stat().st_size + 5):
        file.append(encode({"step": 3}))
    assert steps_of(path) == [1, 2]
    file.close()
    assert steps_of(path) == [1, 2, 3]


def test_a_number_that_json_does_not_have_is_null():
    line = encode({"step": 3, "loss": float("nan"), "grad_norm": float("inf"), "lr": 0.1})
    assert json.loads(line, parse_constant=pytest.fail) == {"step": 3, "loss": None, "grad_norm": None, "lr": 0.1}
