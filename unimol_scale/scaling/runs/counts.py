"""Reads sizes and counts as users write them: presets, "1.1e9", "838M". Imports no torch."""

import math
import re
from collections.abc import Mapping

from unimol_scale.errors import RunError, nearest

SUFFIXES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def parse_count(text: str) -> float | None:
    """Return a positive finite number such as "1.1e9", "838M" or "1_000"; None if the text is not one."""
    match = re.fullmatch(r"([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)([kKMBT]?)", text.strip())
    if match is None:
        return None
    value = float(match.group(1)) * SUFFIXES[match.group(2)]
    return value if 0 < value < math.inf else None


def parse_flops(text: str, argument: str) -> float:
    """Return a number of FLOPs such as "1e21".

    Raises:
        RunError: the text is not such a number; the message begins with ``argument``.
    """
    flops = parse_count(text)
    if flops is None:
        raise RunError(f"{argument} {text!r} is not a number of FLOPs above zero, such as 1e21")
    return flops


def parse_distinct(text: str, argument: str) -> float:
    """Return a number of distinct molecules such as "884M".

    Raises:
        RunError: the text is not such a number; the message begins with ``argument``.
    """
    count = parse_count(text)
    if count is None:
        raise RunError(f"{argument} {text!r} is not a number of molecules above zero, such as 884M")
    return count


def groups_of_size(name: str) -> Mapping[str, float]:
    """Return the parameters of a preset by group, including "total", or {"total": count} for a number.

    Raises:
        RunError: the name is neither.
    """
    from unimol_scale.model.accounting import count_parameters
    from unimol_scale.model.presets import PRESETS

    if name in PRESETS:
        return {group: float(count) for group, count in count_parameters(PRESETS[name]).as_dict().items()}
    number = parse_count(name)
    if number is None:
        raise RunError(f"unknown size {name!r}; give a number of parameters such as 1.1e9, or {nearest(name, PRESETS)}")
    return {"total": number}


def flops_per_molecule(name: str, atoms: int) -> float:
    """Return the training FLOPs of a preset for one molecule of ``atoms`` atoms, by the model's accounting.

    Raises:
        RunError: the size is not a preset; a bare number of parameters does not determine the cost of its pair track.
    """
    from unimol_scale.model.accounting import training_flops
    from unimol_scale.model.presets import PRESETS

    if name not in PRESETS:
        raise RunError(f"compute cannot be counted for the size {name!r}; {nearest(name, PRESETS)}")
    return training_flops(PRESETS[name], atoms)
