"""Keeps a command running if standard output or error lacks a symbol, is a closed pipe or is missing.

On a terminal or log file that is not UTF-8, symbols are replaced by plain ones. Files are always written as UTF-8.
"""

import codecs
import contextlib
import os
import sys
import unicodedata
from pathlib import Path
from typing import IO

_HANDLER = "unimol_scale.plain_signs"
# Replacements for characters that Unicode does not decompose into ASCII.
_PLAIN = {
    "−": "-", "–": "-", "—": "-", "‑": "-", "→": "->", "←": "<-", "×": "x", "·": "*", "±": "+/-", "≈": "~",
    "≤": "<=", "≥": ">=", "≠": "!=", "µ": "u", "μ": "u", "°": "deg", "σ": "sigma", "Σ": "sum", "α": "alpha",
    "β": "beta", "γ": "gamma", "“": '"', "”": '"', "„": '"', "‘": "'", "’": "'", "•": "*", "✓": "ok", "█": "#",
    "━": "-", "─": "-", "│": "|", "╸": "-", "╺": "-", "ß": "ss", "∞": "inf",
}  # fmt: skip


def prepare_streams() -> None:
    """Make standard output and error accept any text; call this once, before anything is printed.

    A symbol that the encoding lacks is replaced by plain ones. A stream that was closed before the start discards what
    is written to it.
    """
    codecs.register_error(_HANDLER, _plain_signs)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)


def drop_output(stream: IO[str]) -> None:
    """Redirect a stream whose reader has gone to the null device, so that Python reports no error at exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream that a test captures has no descriptor
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
