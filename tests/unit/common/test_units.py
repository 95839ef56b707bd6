"""Numbers as people write them."""

import pytest

from unimol_scale.common.units import GIB, MIB, byte_size, clock, counted, duration, engineering, prefixed, time_unit


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (0.9996, "1"),
        (7, "7"),
        (999.4, "999"),
        (999.6, "1k"),
        (120_000, "120k"),
        (3.4e6, "3.4M"),
        (1.13e9, "1.13B"),
        (999.4e9, "999B"),
        (2e12, "2e12"),
        (3e-5, "3e-5"),
    ],
)
def test_counts_are_written_with_the_letters_of_thousands(value: float, text: str) -> None:
    assert engineering(value) == text


def test_a_unit_gets_a_prefix() -> None:
    assert [prefixed(value) for value in (312e12, 4.8, 1e21, 0.5)] == ["312 T", "4.8 ", "1 Z", "0.5 "]


def test_one_thing_and_several() -> None:
    assert [counted(number, "rank") for number in (0, 1, 1024)] == ["0 ranks", "1 rank", "1,024 ranks"]


def test_bytes_are_written_in_the_largest_unit_that_is_reached() -> None:
    values = (0, 512, MIB - 1024, MIB, 1.5 * GIB, 2048 * GIB)
    assert [byte_size(value) for value in values] == [
        "0.0 KiB", "0.5 KiB", "1,023.0 KiB", "1.0 MiB", "1.5 GiB", "2,048.0 GiB",
    ]  # fmt: skip
    assert byte_size(0.02 * GIB, digits=2, gib_from=0.01) == "0.02 GiB"
    assert byte_size(0.001 * GIB, digits=2, gib_from=0.01) == "1.02 MiB"


def test_a_time_is_written_in_the_largest_unit_of_which_it_has_two() -> None:
    times = (0.0123, 0.9996, 119, 120, 7199, 7200, 47 * 3600, 48 * 3600, 4000 * 86_400)
    assert [duration(seconds) for seconds in times] == [
        "12.3 ms", "1.0 s", "119.0 s", "2.0 min", "120.0 min", "2.0 h", "47.0 h", "2.0 days", "4,000.0 days",
    ]  # fmt: skip
    assert [time_unit(seconds) for seconds in (0.1, 150, 10_000)] == [(1.0, "s"), (60.0, "min"), (3600.0, "h")]


def test_a_clock_shows_hours_minutes_seconds_and_days() -> None:
    assert [clock(s) for s in (0.4, 59.6, 3600, 90061)] == ["0:00:00", "0:01:00", "1:00:00", "1 d 1:01:01"]
