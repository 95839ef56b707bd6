"""Jumps of the loss are seen; noise, warm-up and the turns of a mixture are not taken for them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimol_scale.engine.spikes import SpikeDetector
from unimol_scale.errors import ConfigError


def curve(seed, steps=1000, noise=0.05):
    """A loss that falls as those of pretraining do: a fast start, then a power law; with relative noise."""
    rng = np.random.default_rng(seed)
    step = np.arange(steps)
    floor, start, pace = rng.uniform(0.1, 2.0), rng.uniform(2.0, 10.0), rng.uniform(5.0, 100.0)
    smooth = floor + start * np.exp(-step / pace) + (step + 1.0) ** -rng.uniform(0.1, 0.5)
    return smooth * (1.0 + noise * rng.standard_normal(steps))


def alarms(losses, detector=None, parts=None):
    detector = detector or SpikeDetector()
    parts = parts or [""] * len(losses)
    return [step for step, (loss, part) in enumerate(zip(losses, parts, strict=True)) if detector.observe(loss, part)]


def test_no_false_alarm_on_a_hundred_noisy_falling_curves():
    assert [alarms(curve(seed, 600)) for seed in range(100)] == [[]] * 100


@pytest.mark.parametrize("seed", range(20))
def test_a_jump_to_three_times_the_loss_is_an_alarm_at_that_step(seed):
    losses = curve(seed)
    at = int(np.random.default_rng(seed).integers(64, 1000))  # while it falls, too
    losses[at] *= 3.0
    assert alarms(losses) == [at]


def test_a_loss_that_stays_up_alarms_at_once_and_goes_on_alarming():
    losses = curve(3)
    losses[500:] *= 3.0
    found = alarms(losses)
    assert found[:20] == list(range(500, 520))


def test_a_climb_in_many_small_steps_is_seen_on_its_way():
    losses = curve(5)
    losses[600:] *= 1.02 ** np.arange(400)
    assert 605 < alarms(losses)[0] < 640  # from 1.1 to 2.2 times the loss


def test_the_objectives_of_a_mixture_are_judged_apart():
    rng = np.random.default_rng(0)
    parts = [str(part) for part in rng.choice(["denoise", "distill"], 2000, p=[0.8, 0.2])]
    losses = curve(1, 2000) * [1.0 if part == "denoise" else 0.02 for part in parts]
    assert alarms(losses, parts=parts) == []
    at = next(step for step in range(1500, 2000) if parts[step] == "distill")
    losses[at] *= 3.0  # far below the other objective's losses
    assert alarms(losses, parts=parts) == [at]


def test_too_little_history_is_no_ground_for_an_alarm():
    detector = SpikeDetector(window=20)
    assert [detector.observe(loss) for loss in [1.0] * 9 + [5.0] + [1.0] * 5 + [5.0]] == [False] * 15 + [True]


def test_a_smooth_curve_may_rise_a_little():
    assert alarms([1.0] * 200 + [1.1, 1.15, 1.3]) == [202]


def test_a_loss_that_is_no_number_is_a_spike_and_is_not_remembered():
    detector = SpikeDetector()
    assert [detector.observe(value) for value in (float("nan"), float("inf"))] == [True, True]
    assert detector.state() == {}


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-40, 40), at=st.integers(64, 299), size=st.floats(1.1, 5.0))
def test_the_unit_of_the_loss_does_not_matter(seed, exponent, at, size):
    losses = curve(seed, 300)
    losses[at] *= size
    assert alarms(losses) == alarms(losses * 2.0**exponent)  # exact in binary


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), stop=st.integers(1, 299))
def test_a_run_that_was_killed_and_resumed_sees_the_same_spikes(seed, stop):
    losses = curve(seed, 300)
    losses[stop + (300 - stop) // 2] *= 3.0
    parts = ["ab"[step % 2] for step in range(300)]
    detector = SpikeDetector(40, 8.0)
    before = alarms(losses[:stop], detector, parts[:stop])
    resumed = SpikeDetector.from_state(json.loads(json.dumps(detector.state())), window=40, factor=8.0)
    after = [stop + step for step in alarms(losses[stop:], resumed, parts[stop:])]
    assert before + after == alarms(losses, SpikeDetector(40, 8.0), parts)


@pytest.mark.parametrize("arguments", [{"window": 15}, {"factor": 0.0}, {"factor": float("nan")}])
def test_a_detector_that_could_not_judge_is_refused(arguments):
    with pytest.raises(ConfigError, match=f"{next(iter(arguments))}.* must be"):
        SpikeDetector(**arguments)
