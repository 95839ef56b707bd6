"""Numbers and names as people write them, for reports, pictures and the terminal. Standard library only."""

_GREEK = {"alpha": "α", "beta": "β"}


def engineering(value: float, digits: int = 3) -> str:
    """Return a count as people write it: 120k, 3.4M, 1.1B; powers of ten from a trillion on."""
    for factor, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")):
        if 0.9995 * factor <= value < 999.5e9:
            return f"{value / factor:.{digits}g}{suffix}"
    return powers(value)


def powers(value: float) -> str:
    """Return a positive number as 2e+12 is read by people: 2e12."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def greek(text: str) -> str:
    """Return a formula or the name of a parameter with the letters of the papers."""
    for name, letter in _GREEK.items():
        text = text.replace(name, letter)
    return text


def clock(seconds: float) -> str:
    """Return a duration as people read it: 0:03:20, or 12 d 4:05:00 from a day on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days} d " if days else "") + f"{hour:d}:{minute:02d}:{second:02d}"
