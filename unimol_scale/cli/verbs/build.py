"""The verb ``build``, which ``conformer_gen/build.py`` runs too: arguments and printing."""

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
{command} --config configs/build/uni-mol2.yaml --dry-run   # several sources, listed in the file

To resume a build that was stopped, run the same command again.
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
    """Return the argument parser of ``conformer_gen/build.py``."""
    description = _DESCRIPTION.format(command="python conformer_gen/build.py")
    raw = argparse.RawDescriptionHelpFormatter
    parser = CommandParser(prog="build.py", description=description, formatter_class=raw)
    _declare(parser)
    return parser


def _declare(parser: CommandParser) -> None:
    """Declare the arguments; most flags stand for a key of ``BuildConfig``."""
    add = parser.add_argument
    add("--source", metavar="S", help=f"kind of input: {SOURCES.listed}")
    add(
        "--input",
        nargs="+",
        metavar="PATH",
        help="files, directories, URLs or .uri lists; zinc20 also takes tranche names such as C[A-D]AA",
    )
    add("--output", type=Path, metavar="DIR", help="folder of the store (default: data/<source>)")
    add("--backend", help="file format of the store: arrow (default) or lmdb")
    add("--conformers", type=int, metavar="K", help="number of conformers per molecule (default: 1)")
    add("--seed", type=int, metavar="N", help="seed of the conformers and of the train/valid split (default: 0)")
    add("--workers", type=int, metavar="N", help="number of processes of a local Ray (default: all cores)")
    add("--ray-address", metavar="A", help="use a running Ray cluster; its nodes must share the output directory")
    add("--limit", type=int, metavar="N", help="read only the first N rows")
    add("--sample", type=int, metavar="N", help="draw N rows at random by the seed; reads all inputs to their end")
    add("--hydrogens", action="store_true", default=None, help="keep hydrogens as atoms")
    add(
        "--engine",
        metavar="E",
        help="rdkit (default), nvmolkit (on NVIDIA GPUs), or depiction (flat 2D coordinates, for 2D models)",
    )
    add("--exclude", nargs="+", metavar="FILE", help="molecules to leave out, such as the test sets of benchmarks")
    add("--config", type=Path, metavar="FILE", help="YAML file with the keys of configs/build/sample.yaml")
    add(
        "--dry-run",
        action="store_true",
        help="measure a few rows, print the estimated rows, core-hours and bytes of the build, and exit",
    )
    add("assignments", nargs="*", metavar="key=value", help="any other key, such as curate.valid_fraction=0.1")
    parser.take_settings(_settings, files=("input", "exclude"))
    parser.set_defaults(run=partial(_run, parser), stopped=GOES_ON)


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from conformer_gen.config import BuildConfig

    return BuildConfig, {"source.name": "set by --source"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status, as ``run_command`` does."""

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
