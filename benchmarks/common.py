"""What every benchmark needs: its parser, a description of the processor, and the output of its report."""

import argparse
import os
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from unimol_scale.errors import UnimolScaleError

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
_CPU_INFO = Path("/proc/cpuinfo")


def module_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Return an empty parser of a module of this package.

    Args:
        command: the command that starts the module, such as ``python -m benchmarks.build.faults``.
        description: the module's docstring.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=command, description=description, formatter_class=formatter)


def again(command: str, arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return what starts the same module in a fresh process, wherever this one stands, and its environment."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return [sys.executable, *command.split()[1:], *arguments], environment


def as_started(command: str) -> str:
    """Return the command with the arguments that this process was given; of absolute paths their last name."""
    return shlex.join([*command.split(), *map(_shortened, sys.argv[1:])])


def _shortened(word: str) -> str:
    """Return a word with the last name of the absolute path that it is, or that it has behind NAME=."""
    name, equals, value = word.rpartition("=")
    return f"{name}{equals}{Path(value).name}" if Path(value).is_absolute() else word


def exit_status(action: Callable[[], None]) -> int:
    """Run a benchmark; return 0, or 2 after printing an error that the user can correct."""
    try:
        action()
    except UnimolScaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def processor() -> str:
    """Return the name of the processor."""
    lines = _CPU_INFO.read_text(encoding="utf-8").splitlines() if _CPU_INFO.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def deliver(text: str, path: Path | None) -> None:
    """Write the text to a file, whose folder is made; print it if there is none."""
    if path is None:
        print(text)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
