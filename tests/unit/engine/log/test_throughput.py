"""The speed of a run counts training and nothing else."""

import pytest

from unimol_scale.engine.log.throughput import Speedometer


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def train(speed, clock, seconds, steps=1, molecules=10):
    for _ in range(steps):
        clock.now += seconds
        speed.step(molecules, flops=1e6 * molecules)


def test_speed_is_of_the_steps_since_the_last_reading(clock):
    speed = Speedometer(peak=1e8, clock=clock)
    train(speed, clock, 1.0, steps=4)
    assert speed.read() == pytest.approx({"molecules_per_second": 10.0, "mfu": 0.1, "data_wait": 0.0})
    train(speed, clock, 0.5, steps=2)
    assert speed.read() == pytest.approx({"molecules_per_second": 20.0, "mfu": 0.2, "data_wait": 0.0})


def test_a_pause_counts_neither_in_the_speed_nor_in_the_seconds_of_a_step(clock):
    speed = Speedometer(peak=1e8, clock=clock)
    train(speed, clock, 1.0)
    with speed.pause("validation", every=10):
        clock.now += 60.0
    clock.now += 1.0
    assert speed.step(10, 1e7) == pytest.approx(1.0)
    assert speed.read()["molecules_per_second"] == pytest.approx(10.0)


def test_waiting_for_data_is_a_share_of_the_time(clock):
    def slow():
        for batch in range(3):
            clock.now += 0.3
            yield batch

    speed = Speedometer(peak=1e8, clock=clock)
    seen = []
    for batch in speed.feed(slow()):
        clock.now += 0.7
        speed.step(10, 1e7)
        seen.append(batch)
    assert seen == [0, 1, 2]
    assert speed.read() == pytest.approx({"molecules_per_second": 10.0, "mfu": 0.1, "data_wait": 0.3})


def test_the_time_to_the_end_follows_the_recent_pace_and_knows_the_pauses_to_come(clock):
    speed = Speedometer(peak=1e8, clock=clock)
    with speed.pause("validation", every=50):  # the one before the first step
        clock.now += 100.0
    train(speed, clock, 30.0)  # compiles
    assert speed.remaining(10) == pytest.approx(10 * (30.0 + 2.0))
    train(speed, clock, 1.0, steps=10)
    assert speed.remaining(100) == pytest.approx(100 * (1.0 + 2.0))
    with speed.pause("validation", every=50):
        clock.now += 50.0
    train(speed, clock, 3.0, steps=150)  # the machine has become slower
    assert speed.remaining(100) == pytest.approx(100 * (3.0 + 1.0))
