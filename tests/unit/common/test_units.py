"""Numbers as people write them."""

from unimol_scale.common.units import clock


def test_a_clock_shows_hours_minutes_seconds_and_days() -> None:
    assert [clock(s) for s in (0.4, 59.6, 3600, 90061)] == ["0:00:00", "0:01:00", "1:00:00", "1 d 1:01:01"]
