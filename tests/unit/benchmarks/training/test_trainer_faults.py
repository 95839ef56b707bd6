"""What the trainer's benchmark of faults plans and judges with; it starts no run here."""

import collections
from pathlib import Path

import pytest

from benchmarks.training.faults.plan import (
    ALL,
    BETWEEN,
    SAVE,
    START,
    Trial,
    differing,
    plan_kills,
    spike_factor,
    table,
)
from benchmarks.training.faults.sessions import curve, is_saving, last_step, shorten

TRUTH = {"loss": {1: 3.0, 2: 2.0, 3: 1.5}, "valid/loss": {0: 4.0, 2: 2.5}, "grad_norm": {1: 1.0, 2: 1.0, 3: 0.5}}


def test_each_rank_is_killed_as_often_as_asked_half_of_it_during_saves_and_repeatably() -> None:
    kills = plan_kills(20, seed=0)
    assert kills == plan_kills(20, seed=0) != plan_kills(20, seed=1)
    times = collections.Counter((kill.victim, kill.moment) for kill in kills)
    for rank in (0, 1):
        assert times[rank, SAVE] == 10
        assert times[rank, SAVE] + times[rank, BETWEEN] + times[rank, START] == 20
    assert times[ALL, SAVE] == 2
    steps = [kill.step for kill in kills]
    assert steps == sorted(steps)


def test_a_curve_differs_where_a_bit_does_and_a_short_run_is_compared_up_to_its_end() -> None:
    short = {"loss": {1: 3.0, 2: 2.0}, "valid/loss": {0: 4.0, 2: 2.5}, "grad_norm": {1: 1.0, 2: 1.0}}
    assert differing(short, TRUTH) == []
    nudged = {**short, "loss": {1: 3.0, 2: 2.0000000000000004}}
    assert differing(nudged, TRUTH) == ["loss at 2"]
    assert differing(nudged, TRUTH, tolerance=1e-5) == []
    assert differing({**short, "grad_norm": {1: 1.0}}, TRUTH) == ["grad_norm at 2"]
    assert differing({**short, "valid/loss": {0: 4.0, 1: 3.0, 2: 2.5}}, TRUTH) == ["valid/loss at 1"]
    assert differing({**short, "loss": {1: 3.0, 2: None}}, TRUTH) == ["loss at 2"]


def test_the_table_counts_and_shows_what_went_wrong() -> None:
    rows = table(
        [
            Trial("kill", "", 2, 1.5, "rank 1 is gone | see above"),
            Trial("kill", "", 4, 9.0),
            Trial("kill", "stopped only after 90 s", 3, 90.0),
            Trial("signal", "", 0),
        ]
    )
    assert rows[2] == (
        "| kill | 3 | **no** (1): stopped only after 90 s | 3, 4 | 9.0, 90.0 | rank 1 is gone / see above |"
    )
    assert rows[3] == "| signal | 1 | yes | 0, 0 |  |  |"


def test_a_factor_is_found_with_which_a_loss_is_a_spike() -> None:
    losses = [2.0 + 0.01 * (-1) ** step for step in range(30)]
    losses[20] = 3.0
    factor = spike_factor(losses)
    assert factor == pytest.approx(1.0 / 0.04, rel=0.2), "spreads of at least 2 % of the level"


def test_a_run_is_read_while_it_is_written(tmp_path: Path) -> None:
    assert last_step(tmp_path) == 0
    assert not is_saving(tmp_path)
    lines = ['{"step": 0, "valid/loss": 4.0}', '{"step": 1, "loss": 3.0, "grad_norm": 1.0}', '{"step": 2, "lo']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert curve(tmp_path) == {"loss": {1: 3.0}, "valid/loss": {0: 4.0}, "grad_norm": {1: 1.0}}
    (tmp_path / "checkpoints" / "tmp-step-00000003").mkdir(parents=True)
    assert is_saving(tmp_path)
    assert shorten("[12:00] [ERROR] ['/a/python', '-u'] exits with return code = -9") == (
        "a rank exits with return code = -9"
    )
    assert shorten("error: checkpoint /tmp/run/step-1 is damaged") == "error: checkpoint step-1 is damaged"
