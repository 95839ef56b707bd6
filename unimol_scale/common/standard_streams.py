"""Standard output and error that never stop a command over a symbol, a closed pipe or a missing terminal.

A terminal or log file that is not UTF-8 gets plain signs for those that it lacks. Files are written as UTF-8 anyway.
"""

import codecs
import contextlib
import os
import sys
import unicodedata
from pathlib import Path
from typing import IO

_HANDLER = "unimol_scale.plain_signs"
# What Unicode's own decompositions do not know.
_PLAIN = {
    "−": "-", "–": "-", "—": "-", "‑": "-", "→": "->", "←": "<-", "×": "x", "·": "*", "±": "+/-", "≈": "~",
    "≤": "<=", "≥": ">=", "≠": "!=", "µ": "u", "μ": "u", "°": "deg", "σ": "sigma", "Σ": "sum", "α": "alpha",
    "β": "beta", "γ": "gamma", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "•": "*", "✓": "ok", "█": "#",
    "━": "-", "─": "-", "│": "|", "╸": "-", "╺": "-", "ß": "ss", "∞": "inf",
}  # fmt: skip


def prepare_streams() -> None:
    """Let standard output and error print anything; call it once, before anything is printed.

    A symbol that the encoding lacks is replaced by plain signs. A stream that was closed before the start takes
    everything and keeps nothing.
    """
    codecs.register_error(_HANDLER, _plain_signs)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def drop_output(stream: IO[str]) -> None:
    """Let a stream whose reader is gone write to nowhere, so that nothing complains about it at exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream of a test has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def _plain_signs(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    if character in _PLAIN:
        return _PLAIN[character]
    decomposed = unicodedata.normalize("NFKD", character)
    return decomposed.encode("ascii", "ignore").decode("ascii") or "?"
