"""The errors a user can meet: one root, and one child for each kind of problem. Imports nothing of the project.

A message says what was wrong, where, and what to do. Invariants that only a programming mistake can break are
``assert``, never one of these.
"""

import difflib
from collections.abc import Iterable

LIKELY = 0.7  # minimum similarity of a key to be suggested
ABBREVIATIONS = {"lr": "learning_rate"}  # unambiguous, although other keys have the same initials (lora_rank)


class UnimolScaleError(Exception):
    """Root of every error meant for a user; the command line prints it without a traceback and exits with status 2."""


class ConfigError(UnimolScaleError):
    """A configuration key or value is wrong; the message holds its dotted path and, if read from a file, its line."""


class NewerFileError(ConfigError):
    """A file that a program of this project wrote has a key that only a newer version knows."""


class SourceError(UnimolScaleError):
    """An input of molecules is missing, unreadable or not what it claims to be."""


class ConformerError(UnimolScaleError):
    """A molecule, or a whole build, yielded no usable conformer."""


class StoreError(UnimolScaleError):
    """A conformer store is missing, unfinished or damaged, or an output directory is not empty."""


class CheckpointError(UnimolScaleError):
    """A checkpoint is missing, incomplete or damaged, or belongs to another model."""


class RunError(UnimolScaleError):
    """A training run, or a set of runs to be compared, cannot be used for what was requested."""


class LostProcessError(UnimolScaleError):
    """A process of a command has ended without a word; the same command may succeed if it is given again."""


def version_problem(found: object, reads: int, name: str = "format_version") -> str:
    """Return what is wrong with the format version that a file states, and what to do; "" if it is fine.

    A version number rises when older programs would misread the file, not when a key is added that they can ignore.

    Args:
        found: the version stated in the file.
        reads: the version that this program reads.
        name: name of the key in the file.
    """
    if found == reads:
        return ""
    if isinstance(found, int) and found > reads:
        return (
            f"{name} {found} is newer than {reads}, which this version of unimol-scale reads; update unimol-scale to "
            "read the file"
        )
    return (
        f"{name} {found!r} is not {reads}, which this version of unimol-scale reads; use the version that wrote the "
        "file, or create it again with this one"
    )


def nearest(name: object, valid: Iterable[str]) -> str:
    """Return the end of an error message about an unknown name: the closest valid names, then all of them.

    Args:
        name: the name that the user wrote.
        valid: the valid names.
    """
    names = sorted(str(choice) for choice in valid)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}valid: {', '.join(names)}"


def nearest_key(path: str, valid: Iterable[str], everywhere: Iterable[str]) -> str:
    """Return the end of an error message about an unknown dotted key: the closest keys at any level.

    Args:
        path: the key that the user wrote.
        valid: the valid names at its level.
        everywhere: the dotted paths of all keys.
    """
    names = sorted(valid)
    parent, _, leaf = path.rpartition(".")
    found = suggested_keys(path, everywhere)
    here = len(found) == 1 and found[0].rpartition(".")[0] == parent
    # A group is not a key, but it may be the misspelt part: trian.epochs.
    group = difflib.get_close_matches(leaf, names, n=1, cutoff=0.5)
    if here or (not found and group):
        found = [found[0].rpartition(".")[2] if here else group[0]]
    hint = f"did you mean {' or '.join(map(repr, found))}? " if found else ""
    return f"{hint}valid: {', '.join(names)}"


def suggested_keys(path: str, everywhere: Iterable[str]) -> list[str]:
    """Return the dotted keys that an unknown key may stand for: the most similar one, or several if equally similar.

    A key of the same name at another level counts most, then a common abbreviation (lr), then initials, then similar
    spelling.
    """
    wanted = path.lower().replace("-", "_")
    scores: dict[str, float] = {}
    for key in everywhere:
        scores[key] = _likeness(wanted, key)
    best = max(scores.values(), default=0.0)
    return [key for key, score in scores.items() if score == best][:3] if best >= LIKELY else []


def _likeness(wanted: str, key: str) -> float:
    parent, _, leaf = wanted.rpartition(".")
    its_parent, _, its_leaf = key.rpartition(".")
    if leaf == its_leaf:
        return 2.0 + difflib.SequenceMatcher(None, parent, its_parent).ratio() * bool(parent)
    if ABBREVIATIONS.get(leaf) == its_leaf:
        return 1.6
    if leaf == "".join(word[0] for word in its_leaf.split("_")) and len(leaf) > 1:
        return 1.5
    alike = difflib.SequenceMatcher(None, leaf, its_leaf).ratio()
    return alike + 0.1 * (parent == its_parent)
