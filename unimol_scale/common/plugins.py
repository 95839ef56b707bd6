"""Code by its name: the registries of sources, objectives, laws, metrics and sinks, and ``package.module:Name``.

Ours are listed by a short name. Whoever writes one of their own names it ``package.module:Name`` in the same place, and
it is treated as ours are. Such a name is imported where a user gives it: on the command line, in a call from Python, or
in a file of settings that the user names. What a run folder, a checkpoint, a store or a fine-tuned model says of itself
is never imported, since these may come from anywhere: they are read as text, and code of their own must be named again.
"""

import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Generic, TypeVar

from unimol_scale.errors import ConfigError, nearest

EntryT = TypeVar("EntryT")
_NAME = r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*"
_REFERENCE = re.compile(rf"({_NAME})(?<!\.py):({_NAME})")
_PATH = "PYTHONPATH"


def is_reference(text: object) -> bool:
    """Return whether a name is of the form ``package.module:Name``."""
    return isinstance(text, str) and _REFERENCE.fullmatch(text) is not None


def is_installed(library: str) -> bool:
    """Return whether a library can be imported; it is not."""
    try:
        return sys.modules.get(library) is not None or importlib.util.find_spec(library) is not None
    except ValueError:  # it was put there without a specification
        return True


def load(reference: str) -> Any:  # noqa: ANN401
    """Import a module and return what it has under a name.

    Modules are looked for where Python looks for them, and last in the current folder, so that a file in it needs no
    installation. The processes that this one starts find them in the same places.

    Args:
        reference: ``package.module:Name``.

    Raises:
        ConfigError: there is no such module or name in it, or the module cannot be imported; says where it was looked
            for.
    """
    match = _REFERENCE.fullmatch(reference)
    assert match is not None, reference
    found: Any = _import(match[1])
    for part in match[2].split("."):
        if not hasattr(found, part):
            where = f"the module {match[1]}" if isinstance(found, ModuleType) else f"{match[1]}:{found.__name__}"
            raise ConfigError(f"{where} has no {part!r}; {nearest(part, _public_names(found))}")
        found = getattr(found, part)
    return found


def _import(module: str) -> ModuleType:
    here = os.getcwd()  # noqa: PTH109 - as Python writes it on its path
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()  # the file may be a moment old
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name
        if missing is None or not f"{module}.".startswith(f"{missing}."):  # the module is there, and lacks another one
            raise ConfigError(f"the module {module} cannot be imported: {error}{_place(error)}") from error
        path = os.environ.get(_PATH)
        raise ConfigError(
            f"there is no module {missing!r}. It was looked for in the current folder ({here}), in {_PATH} "
            f"({path or 'which is not set'}) and among the installed packages. Start the command in the folder that "
            f"has {missing}, or name that folder: {_PATH}=FOLDER before the command"
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the module {module} cannot be imported: {type(error).__name__}: {error}{_place(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """Return the line of the user's code at which an import failed, as the end of a message."""
    if isinstance(error, SyntaxError):  # its message has the line
        return ""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if len(frames) > 1 else ""


def _public_names(found: object) -> Iterable[str]:
    """Return the names that somebody may have meant: what a module or class defines itself, and does not import."""
    home = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    public = {name: value for name, value in vars(found).items() if not name.startswith("_")}
    return [
        name
        for name, value in public.items()
        if not isinstance(value, ModuleType) and (not callable(value) or getattr(value, "__module__", home) == home)
    ]


def accepts(function: Callable[..., Any], *arguments: object) -> bool:
    """Return whether a function or class can be called with these arguments; True if it does not say."""
    try:
        signature = inspect.signature(function)
    except ValueError:
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


class Registry(Mapping[str, EntryT], Generic[EntryT]):
    """What there is of one kind: ours by name, in order, and anybody's by ``package.module:Name``.

    An entry is imported when it is asked for, so that a list of names costs nothing.

    Args:
        kind: in a word or two, for messages, such as "law".
        entries: our names → ``package.module:Name`` of each.
        adopt: (what a name stands for, the name) → the entry. Raises ``ConfigError`` with what is missing of it, as the
            end of a sentence that begins with the kind and the name.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], adopt: Callable[[Any, str], EntryT]) -> None:
        self._kind, self._entries, self._adopt = kind, dict(entries), adopt

    def __getitem__(self, name: str) -> EntryT:
        module, _, attribute = self._entries[name].partition(":")
        return self._adopt(getattr(importlib.import_module(module), attribute), name)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def listed(self) -> str:
        """All names in a line, for help texts."""
        return f"{', '.join(self)}, or package.module:Name of your own code"

    def check(self, name: str | None, key: str, also: Sequence[str] = ()) -> None:
        """Find out whether a name can be an entry's; one of the form ``package.module:Name`` is not imported.

        Args:
            name: to be looked at; None, where none was given, is fine.
            key: setting or flag that holds it, for the message.
            also: words that are valid in its place and name no entry.

        Raises:
            ConfigError: it cannot.
        """
        if name is None or name in self._entries or name in also or is_reference(name):
            return
        if ":" in name:
            hint = "name your own code as Python imports it, package.module:Name, such as my_file:MyName for my_file.py"
        else:
            hint = f"{nearest(name, [*also, *self])}, or package.module:Name of your own code"
        raise ConfigError(f"{key}: unknown {self._kind} {name!r}; {hint}")

    def entry(self, name: str) -> EntryT:
        """Return the entry of a name that the user has given; one of the form ``package.module:Name`` is imported.

        Raises:
            ConfigError: there is none, it cannot be imported, or it is not what it must be.
        """
        self.check(name, self._kind)
        try:
            return self[name] if name in self._entries else self._adopt(load(name), name)
        except ConfigError as error:
            raise ConfigError(f"the {self._kind} {name}: {error}") from error


def must_be_named(names: Sequence[str], given: Sequence[str], how: str) -> None:
    """Raise if something else than the user names code.

    Args:
        names: as the settings of an earlier run and what the user gives, laid over them, have them.
        given: as the user alone gives them.
        how: how they are given, for the message, such as "--objective {}".

    Raises:
        ConfigError: one is of the form ``package.module:Name``, and the user has not given it.
    """
    for name in names:
        if is_reference(name) and name not in given:
            raise ConfigError(
                f"the run names code of its own, {name}. A folder may come from anywhere, so code is imported only if "
                f"you name it yourself: add {how.format(','.join(names))}"
            )
