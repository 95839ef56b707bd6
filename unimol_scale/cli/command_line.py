"""The argument parser of all commands: settings among flags, ``--help-settings``, and spelling suggestions.

Usage errors exit with status 2, as in argparse.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from unimol_scale.cli.settings_help import settings_text
from unimol_scale.config import keys_of
from unimol_scale.errors import ABBREVIATIONS, LIKELY, suggested_keys
from unimol_scale.former_settings import former_names, present_name

SETTINGS = "assignments"  # the positional argument that takes key=value
_ALIKE = 0.6

LoadSettings = Callable[[], tuple[type[Any], Mapping[str, str]]]


def as_sentence(text: str) -> str:
    """Return the one-line help of a verb as a sentence, for its description."""
    return f"{text[0].upper()}{text[1:]}."


class CommandParser(argparse.ArgumentParser):
    """An argparse parser whose errors suggest the right spelling.

    Args:
        arguments: positional arguments of ``argparse.ArgumentParser``.
        options: keyword arguments of ``argparse.ArgumentParser``.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **options)
        self._words: list[str] = []
        self._settings: LoadSettings | None = None
        self._files: Sequence[str] = ()
        self.add_argument(
            "--help-settings", action=_PrintSettings, nargs=0, help="print all settings with their defaults and exit"
        )

    def take_settings(self, load: LoadSettings, files: Sequence[str] = ()) -> None:
        """Declare the settings of this command.

        Args:
            load: returns the settings dataclass and the argument ``told`` of ``settings_text``. It is called only when
                they are needed, because their modules may be slow to import.
            files: destinations of flags that take several files; settings may follow these files.
        """
        self._settings = load
        self._files = files

    @property
    def loads_settings(self) -> LoadSettings | None:
        """The loader given to ``take_settings``; None for a command without settings."""
        return self._settings

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse arguments; settings may stand before, between and after flags, and unknown words are errors.

        Returns:
            The arguments, and an empty list of unparsed words.
        """
        self._words = list(sys.argv[1:] if args is None else args)
        arguments, rest = super().parse_known_args(self._words, namespace)
        unknown = [word for word in rest if word.startswith("-")]
        takes_settings = any(action.dest == SETTINGS for action in self._actions)
        if unknown or (rest and not takes_settings):
            self.error(f"unrecognized arguments: {' '.join(unknown or rest)}")
        if takes_settings:  # argparse takes only the first group of settings, and gives others to the preceding flag
            found = [*getattr(arguments, SETTINGS), *rest, *self._settings_among_files(arguments)]
            setattr(arguments, SETTINGS, found)
        return arguments, []

    def _settings_among_files(self, arguments: argparse.Namespace) -> list[str]:
        """Remove settings from the values of flags that take several files, and return them.

        A word with "=" that is not an existing file is a setting if its key is known, or so similar to a known key that
        the error should suggest that key.
        """
        found: list[str] = []
        for name in self._files:
            words: list[str] = getattr(arguments, name) or []
            chosen = [word for place, word in enumerate(words) if self._is_setting(words, place)]
            if chosen:
                setattr(arguments, name, [word for word in words if word not in chosen])
            found += chosen
        return found

    def _is_setting(self, words: Sequence[str], place: int) -> bool:
        before, word = words[max(place - 1, 0)], words[place]
        # A space before or after the "="; reported later.
        if "=" in words[max(place - 1, 0) : place + 2] or (before.endswith("=") and before is not word):
            return True
        key, equals, _ = word.partition("=")
        # Only the group is known of keys such as "source.labels.logS", whose last part the user chooses.
        group = key.partition(".")[0]
        groups = {known.partition(".")[0] for known in [*self._keys(), *self._former_names()]}
        alike = difflib.get_close_matches(group, groups, n=1, cutoff=LIKELY) or suggested_keys(key, self._keys())
        known = group in groups or alike
        return bool(equals and re.fullmatch(r"[\w.-]+", key) and known) and not Path(word).exists()

    def _keys(self) -> list[str]:
        return keys_of(self._settings()[0]) if self._settings is not None else []

    def _former_names(self) -> Mapping[str, str]:
        return former_names(self._settings()[0]) if self._settings is not None else {}

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message with spelling suggestions, and exit with status 2."""
        hints = [hint for place in range(len(self._words)) if (hint := self._flag_hint(place))]
        if message.startswith("unrecognized"):
            hints += [self._setting_hint(word) for word in self._words if re.match(r"\w[\w.-]*=", word)]
        choice = re.search(r"invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message)
        if choice:
            close = difflib.get_close_matches(choice[1], re.findall(r"[^', ]+", choice[2]), n=1, cutoff=_ALIKE)
            hints += [f"did you mean {close[0]}?" for _ in close]
        super().error("; ".join([message, *dict.fromkeys(filter(None, hints))]))

    def settings_help(self) -> str:
        """Return the text that ``--help-settings`` prints."""
        if self._settings is not None:
            kind = "key=value" if any(action.dest == SETTINGS for action in self._actions) else "keys of its file"
            return f"Settings of {self.prog} ({kind}):\n\n{settings_text(*self._settings())}"
        verbs = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        if verbs:
            return "\n".join(f"{self.prog} {name} --help-settings" for name in verbs[0].choices)
        return f"{self.prog} has no settings besides its flags:\n\n{self.format_help()}"

    def _setting_hint(self, word: str) -> str:
        """Return what to write instead of key=value for a command without settings."""
        key, _, value = word.partition("=")
        flag = f"--{key.replace('_', '-')}"
        if any(action.dest == SETTINGS for action in self._actions):
            return ""
        if flag in self._option_string_actions:
            return f"write {flag} {value}"
        return "this command has no settings of the form key=value"

    def _flag_hint(self, place: int) -> str:
        """Return a suggestion for a misspelt word of the command line; "" if there is none."""
        flag, equals, value = self._words[place].partition("=")
        known = [name for name in self._option_string_actions if name.startswith("--")]
        if not flag.startswith("--") or flag == "--" or any(name.startswith(flag) for name in known):
            return ""
        name = flag.removeprefix("--").replace("-", "_")
        plain = name.replace("_", "-")
        name = present_name(self._settings()[0], name) if self._settings is not None else name
        likely = suggested_keys(name, self._keys())
        leaf = name.rpartition(".")[2]
        same = [key for key in likely if key.rpartition(".")[2] in (leaf, ABBREVIATIONS.get(leaf))]
        # A flag of that very name, then a setting of that name or abbreviation, then the flag that is spelt alike. The
        # hyphens that all flags begin with do not count: --lr is not like --help.
        flags = [other.removeprefix("--") for other in known]
        alike = difflib.get_close_matches(plain, flags, n=1, cutoff=_ALIKE)
        if alike and (plain in flags or not same):
            return f"did you mean --{alike[0]}?"
        if not likely:
            return ""
        if not any(action.dest == SETTINGS for action in self._actions):
            return f"{likely[0]} is a key of the file that this command reads, not a flag"
        follows = self._words[place + 1] if place + 1 < len(self._words) else ""
        value = value if equals else "" if follows.startswith("-") or "=" in follows else follows
        return f"{likely[0]} is a setting, not a flag: write {likely[0]}={value or 'VALUE'}"


class _PrintSettings(argparse.Action):
    """The flag ``--help-settings``."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        assert isinstance(parser, CommandParser)
        print(parser.settings_help())
        parser.exit()


def declare_computing(verb: argparse.ArgumentParser) -> None:
    """Declare where a finished model computes, and where its conformers are kept; they are the same for every verb."""
    add = verb.add_argument
    add(
        "--cache",
        type=Path,
        default=Path("data/cache"),
        metavar="DIR",
        help="folder in which conformers are kept (default: %(default)s)",
    )
    add(
        "--max-pairs",
        type=int,
        metavar="N",
        help="memory budget: padded atom pairs computed at once (default: suits the device)",
    )
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to compute; auto uses a GPU if there is one (default: %(default)s)",
    )
