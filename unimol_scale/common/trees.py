"""Flattens nested settings to dotted keys, merges them and compares them. Imports the standard library only.

A tree maps keys to values or to further trees, like a YAML or JSON file. Flat settings map dotted keys to values, such
as ``train.learning_rate`` → 1e-4.
"""

import dataclasses
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

Tree = dict[str, Any]
Flat = dict[str, Any]
# Dotted key → (before, now).
Differences = dict[str, tuple[Any, Any]]


def group_of(hint: Any) -> type[Any] | None:  # noqa: ANN401
    """Return the dataclass in the type hint of a settings group, which may be optional; None for other hints."""
    choices = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    kind = choices[0]
    return kind if len(choices) == 1 and isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield (keys that lead to a value, the value) for each value of a tree; an empty group is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def flatten(tree: Mapping[str, Any]) -> Flat:
    """Return a tree as dotted key → value; empty groups are left out."""
    return {".".join(map(str, keys)): value for keys, value in leaves(tree) if not isinstance(value, Mapping)}


def nested(path: str, value: Any) -> Tree:  # noqa: ANN401
    """Return a tree that holds a single value under a dotted key."""
    *parents, leaf = path.split(".")
    tree: Tree = {leaf: value}
    for parent in reversed(parents):
        tree = {parent: tree}
    return tree


def without(tree: Mapping[str, Any], keys: Sequence[str]) -> Tree:
    """Return a tree without the value under ``keys``, and without groups that become empty."""
    first, *rest = keys
    left = without(tree[first], rest) if rest else {}
    return {key: left if key == first else value for key, value in tree.items() if key != first or left}


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> Tree:
    """Return ``base`` with its values overridden by ``change``, merging nested mappings; modifies neither argument."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Differences:
    """Return the flat settings that differ. An absent setting counts as its default, or as None without a default.

    Args:
        before: flat settings, possibly recorded by another version.
        now: flat settings to compare them with.
        defaults: dotted key → the value that its absence stands for.
    """
    known = defaults or {}
    pairs = {key: (before.get(key, known.get(key)), now.get(key, known.get(key))) for key in [*before, *now]}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def unknown(before: Mapping[str, Any], known: Collection[str]) -> Flat:
    """Return the flat settings whose key is neither known nor inside a known group, such as a table of units."""
    return {
        key: value
        for key, value in before.items()
        if not any(key == name or key.startswith(f"{name}.") for name in known)
    }


def as_lines(changed: Differences) -> str:
    """Return differences as indented lines of the form "key: before → now"."""
    return "".join(f"\n  {key}: {_shown(old)} → {_shown(new)}" for key, (old, new) in changed.items())


def as_newer(recorded: Mapping[str, Any], where: object) -> str:
    """Return the error message about recorded settings that this version does not know."""
    lines = "".join(f"\n  {key}: {_shown(value)}" for key, value in recorded.items())
    return (
        f"{where} was written by a newer version of unimol-scale, with settings that this version does not know:{lines}"
        "\nUpdate unimol-scale to continue with it"
    )


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
