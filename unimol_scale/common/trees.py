"""Nested settings: flattened to dotted keys, laid over one another, and compared. Imports the standard library only.

A tree is a mapping of keys to values or to further trees, as YAML and JSON files hold it. Flat settings are dotted
key → value, such as ``train.learning_rate`` → 1e-4.
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
    """Return the dataclass of a group of settings by its type hint, which may be "or None"; None for other hints."""
    choices = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
    kind = choices[0]
    return kind if len(choices) == 1 and isinstance(kind, type) and dataclasses.is_dataclass(kind) else None


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a tree, each behind the keys that lead to it; an empty group is a value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*above, key))
        else:
            yield (*above, key), value


def flatten(tree: Mapping[str, Any]) -> Flat:
    """Return a tree as dotted key → value; an empty group has no key."""
    return {".".join(map(str, keys)): value for keys, value in leaves(tree) if not isinstance(value, Mapping)}


def nested(path: str, value: Any) -> Tree:  # noqa: ANN401
    """Return the tree that has one value, at a dotted key."""
    *parents, leaf = path.split(".")
    tree: Tree = {leaf: value}
    for parent in reversed(parents):
        tree = {parent: tree}
    return tree


def without(tree: Mapping[str, Any], keys: Sequence[str]) -> Tree:
    """Return a tree without the value that ``keys`` lead to, and without the group that this leaves empty."""
    first, *rest = keys
    left = without(tree[first], rest) if rest else {}
    return {key: left if key == first else value for key, value in tree.items() if key != first or left}


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> Tree:
    """Return ``base`` with the values of ``change`` laid over it, mapping by mapping; neither argument is modified."""
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> Differences:
    """Return the flat settings that differ. An absent one counts as its default, or as None if it has none.

    Args:
        before: flat settings as any version recorded them.
        now: flat settings to compare them with.
        defaults: dotted key → what its absence means.
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
    """Return differences as indented lines, "key: before → now"."""
    return "".join(f"\n  {key}: {_shown(old)} → {_shown(new)}" for key, (old, new) in changed.items())


def as_newer(recorded: Mapping[str, Any], where: object) -> str:
    """Return the error about recorded settings that this version does not know: what they are, and what to do."""
    lines = "".join(f"\n  {key}: {_shown(value)}" for key, value in recorded.items())
    return (
        f"{where} was written by a newer version of unimol-scale, with settings that this version does not know:{lines}"
        "\nUpdate unimol-scale to go on with it"
    )


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
