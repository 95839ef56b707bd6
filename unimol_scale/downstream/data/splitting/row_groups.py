"""Collects rows into groups that must stay together, and divides ordered groups into parts."""

from collections.abc import Hashable, Sequence

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

ROUNDING = 1e-9  # tolerance in rows, since 0.7 + 0.1 is slightly less than 0.8

Groups = list[list[int]]


def group_rows(rows: Int64, names: Sequence[Hashable]) -> Groups:
    """Return groups of rows with the same name, in the order of their first rows.

    Args:
        rows: row numbers, int64 [R].
        names: [M] name of every row of the data.
    """
    groups: dict[Hashable, list[int]] = {}
    for row in rows.tolist():
        groups.setdefault(names[row], []).append(row)
    return list(groups.values())


def shuffled(groups: Sequence[list[int]], random: np.random.Generator) -> Groups:
    """Return the groups in a random order."""
    return [groups[at] for at in random.permutation(len(groups)).tolist()]


def largest_first(groups: Sequence[list[int]]) -> Groups:
    """Return the groups by decreasing size; among equals, the one with the latest first row comes first."""
    return sorted(groups, key=lambda group: (-len(group), -group[0]))


def fill(groups: Sequence[Sequence[int]], ends: tuple[float, float]) -> Groups:
    """Divide groups in order, each into the first of three parts with enough room; the last one takes the rest.

    Args:
        groups: groups of rows.
        ends: number of rows after which the first part ends, and after which the second part ends.
    """
    first: list[int] = []
    second: list[int] = []
    third: list[int] = []
    for group in groups:
        if len(first) + len(group) <= ends[0] + ROUNDING:
            first += group
        elif len(first) + len(second) + len(group) <= ends[1] + ROUNDING:
            second += group
        else:
            third += group
    return [first, second, third]


def cut(groups: Sequence[Sequence[int]], ends: tuple[float, float]) -> Groups:
    """Divide ordered groups into three consecutive parts whose sizes match ``ends`` as closely as whole groups allow.

    No part is empty if there are enough groups, except the last one if the second part ends after all rows.
    """
    count = len(groups)
    rows = np.cumsum([len(group) for group in groups])
    after_second = 1 if count and ends[1] < rows[-1] - ROUNDING else 0  # least number of groups in the last part
    if count < 2 + after_second:
        return [[row for group in groups for row in group], [], []]
    first, second = (int(np.abs(rows - end).argmin()) + 1 for end in ends)
    first = min(max(first, 1), count - after_second - 1)
    second = min(max(second, first + 1), count - after_second)
    return [
        [row for group in part for row in group] for part in (groups[:first], groups[first:second], groups[second:])
    ]
