"""From the arguments of a call to settings, and what every public function does around its work. Imports no torch."""

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
    """Lay the settings of a call over those of a file.

    Args:
        function: what was called; messages name it, and its arguments where one is misspelt.
        config: YAML file, or several, of which the later win; None: there is none.
        short: name of an argument → dotted key that it is short for. A group of settings, which is a mapping, may have
            the name of an argument.
        given: settings by such names, by dotted keys, or as groups; later ones win. A name of ``short`` whose value is
            None is not given.

    Returns:
        The settings, and where each came from.

    Raises:
        ConfigError: the file cannot be read, settings are no mapping of names, or a value is a set.
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
    """Return a value as YAML would give it: NumPy's numbers and arrays, tuples and paths become plain ones."""
    require_order(value, name)
    if isinstance(value, Mapping):
        return {str(key): _plain(inside, f"{name}.{key}") for key, inside in value.items()}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # an array, or a number of NumPy's
        return _plain(value.tolist(), name)
    if isinstance(value, list | tuple):
        return [_plain(item, name) for item in value]
    return value


@contextlib.contextmanager
def a_call(arguments: Mapping[str, str], *, progress: bool = False) -> Iterator[None]:
    """Do the work of a public function: its errors name its arguments, and it shows progress if that is asked for.

    Args:
        arguments: as of ``in_arguments``, such as "--hold-out" → "hold_out".
        progress: show messages and bars on standard error, as the command does.
    """
    with shown_on_stderr() if progress else contextlib.nullcontext(), naming_arguments(arguments):
        yield


def as_list(value: Any) -> Any:  # noqa: ANN401
    """Return a single name as a list of it.

    Raises:
        ConfigError: it is a table in memory.
    """
    if columns_of(value) is not None:
        raise ConfigError(
            f"input: expected files, directories or URLs, got {type(value).__name__}; write the molecules to a file"
        )
    return [value] if isinstance(value, str | os.PathLike) else value


def given_sources(sources: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the setting ``sources`` of a build with lists of inputs in every entry; empty for None.

    Raises:
        ConfigError: it is not a list.
    """
    if sources is None:
        return {}
    if isinstance(sources, str | Mapping) or not isinstance(sources, Sequence):
        raise ConfigError(f"sources: expected a list of settings of each source, got {type(sources).__name__}")
    with_input = [isinstance(one, Mapping) and "input" in one for one in sources]
    each = zip(sources, with_input, strict=True)
    return {"sources": [{**one, "input": as_list(one["input"])} if has else one for one, has in each]}
