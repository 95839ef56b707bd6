"""Strict configuration: YAML and ``key=value`` overrides into nested frozen dataclasses, and back. Imports no torch.

Every component keeps its own frozen, keyword-only dataclass beside its code and validates it in ``__post_init__`` by
raising ``ConfigError``. This file turns text into those dataclasses. An unknown key, a missing key and a value of the
wrong type are each a ``ConfigError`` with the dotted path, the file and line, and the nearest valid name.
"""

import dataclasses
import logging
import re
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml

from unimol_scale.common.trees import Flat, Tree, flatten, group_of, leaves, merge, nested, without
from unimol_scale.errors import ConfigError, NewerFileError, nearest, nearest_key
from unimol_scale.former_settings import former_defaults, former_names, present_name

ConfigT = TypeVar("ConfigT")
COMMAND_LINE = "command line"
_log = logging.getLogger(__name__)
_DOTTED = re.compile(r"(?<![\w.])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
NAMES_OF_TYPES = {float: "a number", int: "a whole number", bool: "true or false", str: "text", Path: "a path"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the values of a tree came from, so that an error can point at the line.

    Attributes:
        name: file name, or another word for the source, such as "command line".
        lines: dotted path of a key → its line in that file, from 1.
        files: dotted path of a key → the file with that line, if several files were read and it is not the first.
        given: dotted paths of keys that were given on the command line instead.
        given_by: what gave them, for messages: the command line, or a call.
        keys: dotted paths of all keys of the whole configuration, to suggest one for an unknown key.
        arguments: for a call: names of its arguments, which are suggested too.
        recorded: whether a program of this project wrote it. An unknown key then comes from a newer version, and an
            absent key means what it meant at the time.
    """

    name: str
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    given: frozenset[str] = frozenset()
    given_by: str = COMMAND_LINE
    keys: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    recorded: bool = False

    def with_given(self, change: Mapping[str, Any]) -> "Origin":
        """Return the origin of a tree after command-line settings were laid over it."""
        return dataclasses.replace(self, given=self.given | set(flatten(change)))

    def describe(self, path: str) -> str:
        """Return "file:line: path", as precisely as it is known."""
        place = " and ".join(self.places(path)) or self.name
        return f"{place}: {path}" if path else place

    def places(self, path: str) -> list[str]:
        """Return where a key, an item of a list, or the keys of a group were given; [] for a default."""
        key = path.partition("[")[0]
        if key in self.given:
            return [self.given_by]
        line = self.lines.get(key)
        inside = any(given.startswith(f"{key}.") for given in self.given)
        return ([f"{self.files.get(key, self.name)}:{line}"] if line else []) + ([self.given_by] if inside else [])

    def describe_refusal(self, message: str, path: str) -> str:
        """Return where the settings named in ``message``, which is about the group ``path``, were given."""
        prefix = f"{path}." if path else ""
        keys = [key for key in dict.fromkeys(_DOTTED.findall(message)) if prefix and key.startswith(prefix)]
        if not prefix:
            keys = _DOTTED.findall(message)[:1]  # later bare words may be ordinary words
        keys = [key for key in keys if not any(key.startswith(f"{other}.") for other in keys)]
        found = {key: " and ".join(places) for key in keys if (places := self.places(key))}
        if not found:
            return self.describe(path)
        if len(set(found.values())) == 1:
            return next(iter(found.values()))
        return ", ".join(f"{place}: {key}" for key, place in found.items())


def read_yaml(path: Path) -> tuple[Tree, Origin]:
    """Read a YAML mapping with the line of every key.

    Raises:
        ConfigError: the file is missing, is not YAML, or is not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist; the repository has complete ones under configs/")
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        tree = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must hold a mapping of keys to values, not a {type(tree).__name__}")
    lines: dict[str, int] = {}
    _collect_lines(node, "", lines)
    return tree, Origin(name=str(path), lines=lines)


def _collect_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = f"{prefix}.{key.value}" if prefix else str(key.value)
        lines[path] = key.start_mark.line + 1
        _collect_lines(value, path, lines)


def parse_overrides(assignments: Sequence[str]) -> Tree:
    """Turn ``["train.lr=1e-3", "model.layers=4"]`` into a nested tree; values are read as YAML scalars.

    Raises:
        ConfigError: an assignment has no ``=`` or has spaces beside it, or its value is not valid YAML.
    """
    _check_spelling(assignments)
    tree: Tree = {}
    for assignment in assignments:
        path, _, text = assignment.partition("=")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: {text!r} is not a valid value: {error}") from error
        *parents, leaf = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{path}: {parent!r} is given both as a value and as a group of keys")
        node[leaf] = value
    return tree


def read_settings(
    file: Path | Sequence[Path] | None,
    given: Mapping[str, Any],
    assignments: Sequence[str] = (),
    *,
    given_by: str = COMMAND_LINE,
) -> tuple[Tree, Origin]:
    """Combine files, flags and ``key=value`` assignments; later ones override earlier ones, in this order.

    Args:
        file: a YAML file, or several that override one another in order; None: no file.
        given: tree of the settings given by flags of their own.
        assignments: ``train.steps=100`` and the like.
        given_by: what gives the flags and assignments, for messages.

    Returns:
        The settings, and where each came from.

    Raises:
        ConfigError: the file or an assignment cannot be read.
    """
    files = [file] if isinstance(file, Path) else list(file or ())
    tree, origin = read_yaml(files[0]) if files else ({}, Origin(name=given_by))
    for other in files[1:]:
        change, place = read_yaml(other)
        tree = merge(tree, change)
        origin = dataclasses.replace(
            origin,
            lines={**origin.lines, **place.lines},
            files={**origin.files, **dict.fromkeys(place.lines, str(other))},
        )
    given = merge(given, parse_overrides(assignments))
    return merge(tree, given), dataclasses.replace(origin, given_by=given_by).with_given(given)


def _check_spelling(words: Sequence[str]) -> None:
    """Check that every word has the form key=value, without spaces beside the "="."""
    for place, word in enumerate(words):
        key, equals, text = word.partition("=")
        follows = words[place + 1] if place + 1 < len(words) else "="
        cut = not text and "=" not in follows
        if equals and key and key == key.strip() and not text.startswith(" ") and not cut:
            continue
        start = place - 1 if place and word.startswith("=") else place
        apart = "=" not in follows.strip("=")
        written = " ".join(words[start : start + 3] if apart else [word])
        meant = re.match(r"\s*([\w.]+)\s*[= ]\s*([^\s=]+)", written)
        example = f"write {meant[1]}={meant[2]}, without spaces" if meant else "such as train.learning_rate=1e-4"
        raise ConfigError(f"{word!r} is not of the form key=value; {example}")


def keys_of(config_type: type[Any], path: str = "") -> list[str]:
    """Return the dotted paths of all keys of a dataclass and of those nested in it, in order, without groups."""
    hints = typing.get_type_hints(config_type)
    keys: list[str] = []
    for field in dataclasses.fields(config_type):
        hint, key = hints[field.name], f"{path}.{field.name}".removeprefix(".")
        group = group_of(hint)
        # An optional group counts as a value of its own.
        keys += [key] * (group is not hint) + (keys_of(group, key) if group else [])
    return keys


def defaults_of(config_type: type[Any], path: str = "") -> Flat:
    """Return today's defaults: dotted key → value, as in trees; keys without a default are left out."""
    hints = typing.get_type_hints(config_type)
    defaults: Flat = {}
    for field in dataclasses.fields(config_type):
        hint, key = hints[field.name], f"{path}.{field.name}".removeprefix(".")
        group = group_of(hint)
        if group:
            defaults |= defaults_of(group, key)
        if group is hint:
            continue
        if field.default is not dataclasses.MISSING:
            defaults[key] = to_tree(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            defaults |= flatten({key: to_tree(field.default_factory())})
    return defaults


def recorded_defaults_of(config_type: type[Any], path: str = "") -> Flat:
    """Return what an absent key means in a file that a program of this project wrote; see ``defaults_of``."""
    return {**defaults_of(config_type, path), **former_defaults(config_type, path)}


def build(config_type: type[ConfigT], tree: Mapping[str, Any], origin: Origin, path: str = "") -> ConfigT:
    """Build a dataclass from a tree, strictly.

    Args:
        config_type: a frozen dataclass; fields may be bool, int, float, str, Path, Literal, Optional, tuples and
            mappings of those, and further dataclasses.
        tree: keys → values.
        origin: where the tree came from, for messages.
        path: dotted path of this dataclass inside the whole configuration.

    Raises:
        ConfigError: an unknown or missing key, a wrong type, or a value that the dataclass refuses.
        NewerFileError: there is an unknown key in a file that is ``recorded``.
    """
    tree, origin = _with_present_names(config_type, tree, origin, path)
    if origin.recorded:
        for key, value in former_defaults(config_type).items():
            tree = merge(nested(key, value), tree)
    fields = {field.name: field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(config_type)
    origin = origin if origin.keys else dataclasses.replace(origin, keys=tuple(keys_of(config_type, path)))
    values: Tree = {}
    for key, value in tree.items():
        key_path = f"{path}.{key}" if path else str(key)
        if key not in fields:
            if origin.recorded:
                raise NewerFileError(
                    f"{origin.describe(key_path)}: unknown key {key!r}, so a newer version of unimol-scale wrote this "
                    "file; update unimol-scale to read it"
                )
            arguments = () if path else origin.arguments
            tail = nearest_key(key_path, {*fields, *arguments}, (*origin.keys, *arguments))
            raise ConfigError(f"{origin.describe(key_path)}: unknown key {key!r}; {tail}")
        values[key] = _convert(value, hints[key], origin, key_path)
    for name, field in fields.items():
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if name not in values and not has_default:
            raise ConfigError(f"{origin.describe(path)}: the key {name!r} is required")
    try:
        return config_type(**values)
    except ConfigError as error:
        message = str(error)
        if message.startswith(origin.name):
            raise
        raise ConfigError(f"{origin.describe_refusal(message, path)}: {message}") from error


def _with_present_names(
    config_type: type[Any], tree: Mapping[str, Any], origin: Origin, path: str
) -> tuple[Mapping[str, Any], Origin]:
    """Return tree and origin with every former setting name replaced by its present one, and warn the user.

    Raises:
        ConfigError: a setting is given under both names with different values.
    """
    if not former_names(config_type):
        return tree, origin
    prefix = f"{path}." if path else ""
    values = {".".join(map(str, keys)): (keys, value) for keys, value in leaves(tree)}
    renamed = {old: new for old in values if (new := present_name(config_type, old)) != old}
    if not renamed:
        return tree, origin
    lines, files, given = dict(origin.lines), dict(origin.files), set(origin.given)
    for old, new in renamed.items():
        (keys, value), (_, other) = values[old], values.get(new, ((), None))
        tree = without(tree, keys)
        old_path, new_path = prefix + old, prefix + new
        old_given, new_given = old_path in given, new_path in given
        if new in values and old_given == new_given and value != other:
            raise ConfigError(
                f"{origin.describe(old_path)} is the former name of {new_path}, but the two have different values, "
                f"{value!r} and {other!r}; give only {new_path}"
            )
        if new in values and new_given:  # the command line overrides the file, whichever names they use
            continue
        tree = merge(tree, nested(new, value))
        if old_path in lines:
            lines[new_path] = lines[old_path]
            files[new_path] = files.get(old_path, origin.name)
        if old_given:
            given.add(new_path)
    said = ", ".join(f"{prefix}{old} is now called {prefix}{new}" for old, new in renamed.items())
    _log.warning(f"{said}; the former name still works")
    return tree, dataclasses.replace(origin, lines=lines, files=files, given=frozenset(given))


def _convert(value: Any, hint: Any, origin: Origin, path: str) -> Any:  # noqa: ANN401
    if dataclasses.is_dataclass(hint):
        if isinstance(value, Mapping):
            return build(typing.cast(type[Any], hint), value, origin, path)
        inside = keys_of(typing.cast(type[Any], hint), path)[0]
        raise _type_error(value, f"a group of keys, such as {inside}", origin, path)
    outer = typing.get_origin(hint)
    if outer in (Union, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        (inner,) = (choice for choice in typing.get_args(hint) if choice is not type(None))
        return _convert(value, inner, origin, path)
    if outer is Literal:
        choices = typing.get_args(hint)
        if any(value == choice and isinstance(value, bool) == isinstance(choice, bool) for choice in choices):
            return value
        tail = nearest(str(value), choices)
        raise ConfigError(f"{origin.describe(path)}: unknown value {value!r}; {tail}{_yaml_truth(value)}")
    if outer is tuple:
        if not isinstance(value, list | tuple):
            raise _type_error(value, f"a list, such as {path.rpartition('.')[2]}=[a, b]", origin, path)
        element = typing.get_args(hint)[0]
        # Suggest only keys of this entry.
        origin = dataclasses.replace(origin, keys=()) if group_of(element) else origin
        return tuple(_convert(item, element, origin, f"{path}[{i}]") for i, item in enumerate(value))
    if outer in (dict, Mapping) or outer is not None:
        if not isinstance(value, Mapping):
            raise _type_error(value, "a group of keys", origin, path)
        element = typing.get_args(hint)[1]
        return {str(key): _convert(item, element, origin, f"{path}.{key}") for key, item in value.items()}
    return _convert_scalar(value, hint, origin, path)


def _convert_scalar(value: Any, hint: Any, origin: Origin, path: str) -> Any:  # noqa: ANN401
    if hint is Any:
        return value
    if hint is str and type(value) is int:  # YAML reads a column name such as 12 as a number
        return str(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is float and not isinstance(value, bool):
        # YAML reads 1e-4 (without a dot) as text, which is a flaw of the format and not a user's mistake.
        try:
            return float(value)
        except (TypeError, ValueError):
            pass
    elif hint is int and isinstance(value, float | str) and not isinstance(value, bool):
        try:
            if float(value) == int(float(value)):
                return int(float(value))
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise _type_error(value, NAMES_OF_TYPES.get(hint, hint.__name__), origin, path)


def _type_error(value: object, wanted: str, origin: Origin, path: str) -> ConfigError:
    return ConfigError(f"{origin.describe(path)}: expected {wanted}, got {value!r}{_yaml_truth(value)}")


def _yaml_truth(value: object) -> str:
    """Return an explanation if an unexpected truth value comes from a word that YAML takes for one."""
    if not isinstance(value, bool):
        return ""
    words = "yes, on and true" if value else "no, off and false"
    return f" (YAML reads the words {words} as that value; in quotes, as '\"on\"', they are text)"


def to_tree(config: Any) -> Any:  # noqa: ANN401
    """Return a dataclass as plain dicts, lists and scalars that YAML and JSON can hold."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_tree(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_tree(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_tree(item) for item in config]
    return str(config) if isinstance(config, Path) else config


def identifying(config: Any, always: Collection[str]) -> Tree:  # noqa: ANN401
    """Return a dataclass as ``to_tree`` does, for hashing: without unused keys that were added later.

    A hash must stay the same when a new version adds a key, or nothing made earlier would be recognised.

    Args:
        config: a dataclass.
        always: keys that always count. Any other key counts only if it differs from what its absence means.
    """
    tree, defaults = to_tree(config), recorded_defaults_of(type(config))
    kept = {key for key in tree if key in always or flatten({key: tree[key]}) != _under(defaults, key)}
    return {key: value for key, value in tree.items() if key in kept}


def _under(flat: Mapping[str, Any], key: str) -> Flat:
    return {path: value for path, value in flat.items() if path == key or path.startswith(f"{key}.")}


def to_yaml(config: Any) -> str:  # noqa: ANN401
    """Return a dataclass as YAML text that ``build`` reads back to an equal dataclass."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True)
