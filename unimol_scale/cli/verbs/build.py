"""The verb ``build``, which is also ``conformer_gen/build.py``: its arguments, and what it prints."""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformer_gen.sources.registry import SOURCES
from unimol_scale.cli.command_line import CommandParser
from unimol_scale.cli.entry import run_command
from unimol_scale.cli.settings import settings_of
from unimol_scale.common.exit_status import GOES_ON

if TYPE_CHECKING:
    from conformer_gen.config import BuildConfig

_DESCRIPTION = """\
Build a conformer store from SMILES, tranches, tables, structures or Uni-Mol's files.

{command} --source zinc20 --input tranches/ --workers 16 --dry-run
{command} --source csv --input mine.csv --conformers 10 --exclude test-set.csv
{command} --source zinc20 --input 'C[A-D]AA' --ray-address auto --output /shared/zinc
{command} --config configs/build/sample.yaml conformers.count=4
{command} --config configs/build/uni-mol2.yaml --dry-run   # from several sources: a list in the file

The same command resumes a build that was stopped.
"""


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "build a conformer store from SMILES, tranches, tables, structures or Uni-Mol's files"
    description = _DESCRIPTION.format(command="unimol-scale build")
    raw = argparse.RawDescriptionHelpFormatter
    _declare(verbs.add_parser("build", help=text, description=description, formatter_class=raw))


def build_parser() -> CommandParser:
    """Return the parser of ``conformer_gen/build.py``."""
    description = _DESCRIPTION.format(command="python conformer_gen/build.py")
    raw = argparse.RawDescriptionHelpFormatter
    parser = CommandParser(prog="build.py", description=description, formatter_class=raw)
    _declare(parser)
    return parser


def _declare(parser: CommandParser) -> None:
    """Declare the arguments; each flag is short for a key of ``BuildConfig``."""
    add = parser.add_argument
    add("--source", metavar="S", help=SOURCES.listed)
    add("--input", nargs="+", metavar="PATH", help="files, directories, URLs, .uri lists; zinc20: C[A-D]AA too")
    add("--output", type=Path, metavar="DIR", help="where the store goes (default: data/<source>)")
    add("--backend", help="arrow (default) or lmdb")
    add("--conformers", type=int, metavar="K", help="conformers of each molecule (default 1)")
    add("--seed", type=int, metavar="N", help="of conformers and split (default 0)")
    add("--workers", type=int, metavar="N", help="processes of a local Ray (default: all cores)")
    add("--ray-address", metavar="A", help="use a running Ray cluster; its nodes must share the output directory")
    add("--limit", type=int, metavar="N", help="read only the first N rows")
    add("--sample", type=int, metavar="N", help="draw N rows at random, by the seed; reads every input to its end")
    add("--hydrogens", action="store_true", default=None, help="keep hydrogens as atoms")
    add("--engine", metavar="E", help="rdkit (default), nvmolkit on NVIDIA GPUs, or depiction: flat, for 2D models")
    add("--exclude", nargs="+", metavar="FILE", help="molecules that must not enter, such as test sets of benchmarks")
    add("--config", type=Path, metavar="FILE", help="YAML with the keys of configs/build/sample.yaml")
    add("--dry-run", action="store_true", help="measure a few rows; print rows, core-hours and bytes of a build")
    add("assignments", nargs="*", metavar="key=value", help="any other key, such as curate.valid_fraction=0.1")
    parser.take_settings(_settings, files=("input", "exclude"))
    parser.set_defaults(run=partial(_run, parser), stopped=GOES_ON)


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from conformer_gen.config import BuildConfig

    return BuildConfig, {"source.name": "set by --source"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when the store is finished, 2 for an error that the user can mend, 130 after Ctrl-C."""

    def work() -> int:
        arguments = build_parser().parse_args(argv)
        status: int = arguments.run(arguments)
        return status

    return run_command(work, lambda: GOES_ON)


def config_of(arguments: argparse.Namespace) -> "BuildConfig":
    """Return the build that the arguments ask for."""
    from conformer_gen.config import SHORT_NAMES, read_build_config

    return read_build_config(*settings_of(arguments, SHORT_NAMES, flags_win=True))


def _run(parser: CommandParser, arguments: argparse.Namespace) -> int:
    in_settings = any(word.startswith(("source.name=", "sources=")) for word in arguments.assignments)
    if arguments.source is None and arguments.config is None and not in_settings:
        parser.error("--source is required, such as --source sample, which needs no download")
    config = config_of(arguments)
    if arguments.dry_run:
        from conformer_gen.run.estimate import estimate

        print(estimate(config))
        return 0
    from conformer_gen.run import driver

    print(driver.build(config).describe())
    return 0
