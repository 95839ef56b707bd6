"""Finds code by name: registries of sources, objectives, laws, metrics and sinks, and ``package.module:Name``.

Built-in entries have short names. Users name their own code as ``package.module:Name`` in the same place, and it works
like a built-in entry. Such a name is imported only if the user gives it: on the command line, in a Python call, or in a
settings file that the user names. A name recorded in a run folder, checkpoint, store or fine-tuned model is never
imported, because such files may come from anywhere; the user must give the name again.
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
    """Return whether a library is installed, without importing it."""
    try:
        return sys.modules.get(library) is not None or importlib.util.find_spec(library) is not None
    except ValueError:  # in sys.modules, but without a module specification
        return True


def load(reference: str) -> Any:  # noqa: ANN401
    """Import a module and return its attribute of a given name.

    Modules are searched on Python's path, and last in the current folder, so that a file there needs no installation.
    Child processes search the same places.

    Args:
        reference: ``package.module:Name``.

    Raises:
        ConfigError: the module does not exist or cannot be imported, or lacks the name. The message says where the
            module was searched.
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
    here = os.getcwd()  # noqa: PTH109 - the form that Python itself puts on its path
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name
        if missing is None or not f"{module}.".startswith(
            f"{missing}."
        ):  # another module, which it imports, is missing
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
    """Return the names that the user may have meant: those that a module or class defines rather than imports."""
    home = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    public = {name: value for name, value in vars(found).items() if not name.startswith("_")}
    return [
        name
        for name, value in public.items()
        if not isinstance(value, ModuleType) and (not callable(value) or getattr(value, "__module__", home) == home)
    ]


def accepts(function: Callable[..., Any], *arguments: object) -> bool:
    """Return whether a function or class can be called with these arguments; True if its signature is unknown."""
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
    """The entries of one kind: built-in ones by short name, in order, and users' own by ``package.module:Name``.

    An entry is imported when it is looked up, so listing the names costs nothing.

    Args:
        kind: what the entries are, for messages, such as "law".
        entries: short name → ``package.module:Name`` of each built-in entry.
        adopt: (imported object, its name) → the entry. Raises ``ConfigError`` if the object is unsuitable; the text is
            the end of a sentence that begins with the kind and the name.
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
        """Check that a name can name an entry; ``package.module:Name`` is not imported.

        Args:
            name: the name to check; None (nothing given) is valid.
            key: the setting or flag that holds the name, for the message.
            also: further valid words that name no entry.

        Raises:
            ConfigError: the name is unknown.
        """
        if name is None or name in self._entries or name in also or is_reference(name):
            return
        if ":" in name:
            hint = "name your own code as Python imports it, package.module:Name, such as my_file:MyName for my_file.py"
        else:
            hint = f"{nearest(name, [*also, *self])}, or package.module:Name of your own code"
        raise ConfigError(f"{key}: unknown {self._kind} {name!r}; {hint}")

    def entry(self, name: str) -> EntryT:
        """Return the entry of a name that the user has given; ``package.module:Name`` is imported.

        Raises:
            ConfigError: there is no such entry, it cannot be imported, or it lacks what its kind requires.
        """
        self.check(name, self._kind)
        try:
            return self[name] if name in self._entries else self._adopt(load(name), name)
        except ConfigError as error:
            raise ConfigError(f"the {self._kind} {name}: {error}") from error


def must_be_named(names: Sequence[str], given: Sequence[str], how: str) -> None:
    """Refuse to import code that only a run folder names, and not the user.

    Args:
        names: the names in force: those recorded by an earlier run, overridden by what the user gives.
        given: the names that the user gives.
        how: how the user gives them, for the message, such as "--objective {}".

    Raises:
        ConfigError: a name has the form ``package.module:Name``, and the user has not given it.
    """
    for name in names:
        if is_reference(name) and name not in given:
            raise ConfigError(
                f"the run uses its own code, {name}. A folder may come from anywhere, so code is imported only if "
                f"you name it yourself: add {how.format(','.join(names))}"
            )
