"""ZINC20: its files of lines, its tranche codes such as CDAA, and the URLs of the tranches.

A code has one letter each for molecular weight, logP, reactivity and purchasability. A pattern has, at each of the four
positions, a letter, ``?`` for any letter, or a set such as [A-D] or [ACE].
"""

import itertools
import re

from conformer_gen.sources.lines import read_lines
from conformer_gen.sources.source import Source, SourceSettings
from unimol_scale.errors import SourceError

PLACE = r"[A-Z]|\?|\[[A-Z-]+\]"
PATTERN = re.compile(rf"({PLACE})({PLACE})({PLACE})({PLACE})")
ZINC22_NAME = re.compile(r"H\d\d[PM]\d{3}")
# The last position is not documented; these letters are in use.
PLACES = (
    ("molecular weight", "ABCDEFGHIJK"),
    ("logP", "ABCDEFGHIJK"),
    ("reactivity", "ABCEGI"),
    ("purchasability", "ABCDEF"),
)


def is_tranche(text: str) -> bool:
    """Return whether a text has the form of a tranche code or pattern; its letters may still be wrong."""
    return PATTERN.fullmatch(text) is not None


def expand_tranches(pattern: str) -> list[str]:
    """Return the codes that match a pattern, in alphabetical order.

    Raises:
        SourceError: a letter is not valid at its position.
    """
    match = PATTERN.fullmatch(pattern)
    assert match is not None, pattern
    sets = [_letters(pattern, text, *place) for text, place in zip(match.groups(), PLACES, strict=True)]
    return ["".join(letters) for letters in itertools.product(*sets)]


def tranche_url(base_url: str, code: str) -> str:
    """Return the URL of a tranche's SMILES file."""
    return f"{base_url.rstrip('/')}/{code[:2]}/{code}.smi"


def _letters(pattern: str, text: str, meaning: str, allowed: str) -> list[str]:
    if text == "?":
        return list(allowed)
    wanted: set[str] = set()
    for first, last in re.findall(r"([A-Z])(?:-([A-Z]))?", text):
        if last:
            # A range may span letters that are not in use, such as [A-E] for reactivity, but its ends must be in use.
            if last < first:
                raise SourceError(f"tranche {pattern}: the range {first}-{last} is in reverse order")
            wanted |= {chr(code) for code in range(ord(first), ord(last) + 1)} & set(allowed) | {first, last}
        else:
            wanted.add(first)
    wrong = sorted(wanted - set(allowed))
    if wrong or not wanted:
        raise SourceError(
            f"tranche {pattern}: {', '.join(wrong) or text} is not a valid letter for {meaning}; valid: "
            f"{', '.join(allowed)}"
        )
    return sorted(wanted)


def _urls(word: str, config: SourceSettings) -> list[str] | None:
    return [tranche_url(config.base_url, code) for code in expand_tranches(word)] if is_tranche(word) else None


def _refuse(name: str) -> str:
    is_zinc22 = ZINC22_NAME.match(name) is not None
    return "is named like a ZINC22 tranche, which has another layout; use --source smiles" if is_zinc22 else ""


ZINC20 = Source(
    name="zinc20",
    suffixes=(".smi", ".txt", ".csv"),
    read_stream=read_lines,
    takes_columns=True,
    expand=_urls,
    word="tranche (four letters, such as CDAA or C[A-D]A?)",
    refuse=_refuse,
)
