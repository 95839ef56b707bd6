"""Formats numbers, sizes and durations for reports, plots and the terminal. Standard library only."""

MIB, GIB = 2.0**20, 2.0**30
SECONDS_A_DAY = 86_400.0
_GREEK = {"alpha": "α", "beta": "β", "R_star": "R*"}
_PREFIXES = ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))
_TIME_UNITS = ((SECONDS_A_DAY, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def engineering(value: float, digits: int = 3) -> str:
    """Return a count such as 120k, 3.4M or 1.1B; as a power of ten from a trillion up and below a thousandth."""
    for factor, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if 0.9995 * factor <= value < 999.5e9:
            return f"{value / factor:.{digits}g}{suffix}"
    return f"{value:.{digits}g}" if value == 0.0 or 1e-3 <= value < 1.0 else powers(value)


def powers(value: float) -> str:
    """Return a positive number in short scientific notation, such as 2e12 instead of 2e+12."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def prefixed(value: float) -> str:
    """Return a number with three digits and an SI prefix, to be followed by a unit: "312 T", "4.8 "."""
    scale, prefix = next(((s, p) for s, p in _PREFIXES if value >= s), (1.0, ""))
    return f"{value / scale:.3g} {prefix}"


def counted(number: int, noun: str) -> str:
    """Return a number and a noun with a regular plural: 1 rank, 1,024 ranks."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def byte_size(count: float, digits: int = 1, gib_from: float = 1.0) -> str:
    """Return a number of bytes with a unit: 3.5 KiB, 12.0 MiB, 1,024.0 GiB.

    Args:
        count: number of bytes.
        digits: digits after the decimal point.
        gib_from: smallest size, in GiB, that is written in GiB; set it below 1 to give a column a single unit.
    """
    if count >= gib_from * GIB:
        return f"{count / GIB:,.{digits}f} GiB"
    return f"{count / MIB:,.{digits}f} MiB" if count >= MIB else f"{count / 2**10:,.{digits}f} KiB"


def time_unit(seconds: float) -> tuple[float, str]:
    """Return (length in seconds, name) of the largest unit of which a time has at least two; at least a second."""
    return next(((length, name) for length, name in _TIME_UNITS if seconds >= 2 * length), _TIME_UNITS[-1])


def duration(seconds: float) -> str:
    """Return a duration in the largest unit of which it has at least two; in milliseconds if it is below a second."""
    if seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms"
    length, name = time_unit(seconds)
    return f"{seconds / length:,.1f} {name}"


def duration_range(low: float, high: float) -> str:
    """Return two times, in seconds, in the unit that suits the longer one: 13 to 36 min; one if they read alike."""
    length, name = time_unit(high)
    low_text, high_text = (f"{value / length:.{0 if value >= 9.5 * length else 1}f}" for value in (low, high))
    return f"{high_text} {name}" if low_text == high_text else f"{low_text} to {high_text} {name}"


def clock(seconds: float) -> str:
    """Return a duration as hours, minutes and seconds, such as 0:03:20; from one day up such as 12 d 4:05:00."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour:d}:{minute:02d}:{second:02d}"


def greek(text: str) -> str:
    """Return a formula or parameter name with Greek letters, as the papers write it."""
    for name, letter in _GREEK.items():
        text = text.replace(name, letter)
    return text
