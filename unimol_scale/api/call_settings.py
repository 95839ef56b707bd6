"""Turns the arguments of a call into settings, and wraps every public function's work. Imports no torch."""

import contextlib
import dataclasses
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unimol_scale.api.table_columns import columns_of
from unimol_scale.common.command_output import shown_on_stderr
from unimol_scale.common.text.argument_names import naming_arguments, require_order
from unimol_scale.common.trees import Tree, merge, nested
from unimol_scale.config import Origin, read_settings
from unimol_scale.errors import ConfigError


def read_call(
    function: Callable[..., object],
    config: Path | str | Sequence[Path | str] | None,
    short: Mapping[str, str],
    *given: Mapping[str, Any],
) -> tuple[Tree, Origin]:
    """Return the settings of a file, overridden by those of a call.

    Args:
        function: the called function; messages name it, and suggest its arguments if one is misspelt.
        config: YAML file, or several, of which later ones override earlier ones; None: no file.
        short: name of an argument → dotted key of the setting that it stands for. A value that is a mapping counts as
            the group of settings with that name instead.
        given: settings by argument name, by dotted key, or as groups; later mappings override earlier ones. An
            argument in ``short`` whose value is None counts as not given.

    Returns:
        The settings, and where each of them came from.

    Raises:
        ConfigError: the file cannot be read, the settings are not a mapping of names, or a value is a set.
    """
    tree: Tree = {}
    for settings in given:
        if not isinstance(settings, Mapping) or not all(isinstance(name, str) for name in settings):
            raise ConfigError(
                f'settings: expected a mapping of dotted keys to values, such as {{"seed": 1}}, got {settings!r}'
            )
        for name, value in settings.items():
            if value is None and name in short:
                continue
            key = name if isinstance(value, Mapping) else short.get(name, name)
            tree = merge(tree, nested(key, _plain(value, name)))
    given_by = f"arguments of {function.__name__}"
    files = [config] if isinstance(config, str | os.PathLike) else config or ()
    tree, origin = read_settings([Path(file) for file in files], tree, given_by=given_by)
    of_its_own = [name for name in inspect.signature(function).parameters if name != "more"]
    return tree, dataclasses.replace(origin, arguments=tuple(dict.fromkeys([*of_its_own, *short])))


def _plain(value: Any, name: str) -> Any:  # noqa: ANN401
    """Return a value as YAML would yield it: NumPy numbers and arrays, tuples and paths become plain values."""
    require_order(value, name)
    if isinstance(value, Mapping):
        return {str(key): _plain(inside, f"{name}.{key}") for key, inside in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # an array, or a NumPy number
        return _plain(value.tolist(), name)
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    return value


@contextlib.contextmanager
def a_call(arguments: Mapping[str, str], *, progress: bool = False) -> Iterator[None]:
    """Run the work of a public function: errors name its arguments, and progress is shown if requested.

    Args:
        arguments: flag → argument, such as "--hold-out" → "hold_out"; see ``in_arguments``.
        progress: show messages and bars on standard error, as the command does.
    """
    with shown_on_stderr() if progress else contextlib.nullcontext(), naming_arguments(arguments):
        yield


def as_list(value: Any) -> Any:  # noqa: ANN401
    """Return a single path or URL as a list; return anything else unchanged.

    Raises:
        ConfigError: the value is a table in memory.
    """
    if columns_of(value) is not None:
        raise ConfigError(
            f"input: expected files, directories or URLs, got {type(value).__name__}; write the molecules to a file"
        )
    return [value] if isinstance(value, str | os.PathLike) else value


def given_sources(sources: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the setting ``sources`` of a build, with a list of inputs in every entry; an empty dict for None.

    Raises:
        ConfigError: ``sources`` is not a list.
    """
    if sources is None:
        return {}
    if isinstance(sources, str | Mapping) or not isinstance(sources, Sequence):
        raise ConfigError(f"sources: expected a list of dicts, one per source, got {type(sources).__name__}")
    with_input = [isinstance(one, Mapping) and "input" in one for one in sources]
    each = zip(sources, with_input, strict=True)
    return {"sources": [{**one, "input": as_list(one["input"])} if has else one for one, has in each]}
