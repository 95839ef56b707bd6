"""Build a conformer store from SMILES, tranches, tables, structures or Uni-Mol's files. This file is the command only.

python conformer_gen/build.py --source zinc20 --input tranches/ --workers 16 --dry-run
python conformer_gen/build.py --source csv --input mine.csv --conformers 10 --exclude test-set.csv
python conformer_gen/build.py --source zinc20 --input 'C[A-D]AA' --ray-address auto --output /shared/zinc
python conformer_gen/build.py --config configs/build/sample.yaml conformers.count=4

The same command resumes a build that was stopped, by whatever.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conformer_gen.sources.registry import SOURCES
from unimol_scale import config as strict
from unimol_scale.cli.command_line import CommandParser
from unimol_scale.cli.entry import GOES_ON, run_command


def build_parser() -> CommandParser:
    """Return the parser of the command; each flag is short for a key of ``BuildConfig``."""
    parser = CommandParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    return parser


def _settings() -> tuple[type[Any], Mapping[str, str]]:
    from conformer_gen.config import BuildConfig

    return BuildConfig, {"source.name": "set by --source"}


def config_tree(arguments: argparse.Namespace) -> tuple[dict[str, Any], strict.Origin]:
    """Lay the command line over the file; return the keys and where they came from."""
    tree, origin = strict.read_yaml(arguments.config) if arguments.config else ({}, strict.Origin(name="command line"))
    flags = {
        ("source", "name"): arguments.source,
        ("source", "input"): arguments.input,
        ("source", "limit"): arguments.limit,
        ("source", "sample"): arguments.sample,
        ("conformers", "count"): arguments.conformers,
        ("conformers", "hydrogens"): arguments.hydrogens,
        ("conformers", "engine"): arguments.engine,
        ("curate", "exclude"): arguments.exclude,
        ("output",): arguments.output,
        ("backend",): arguments.backend,
        ("seed",): arguments.seed,
        ("workers",): arguments.workers,
        ("ray_address",): arguments.ray_address,
    }
    given = strict.parse_overrides(arguments.assignments)
    for path, value in flags.items():
        if value is not None:
            given = strict.merge(given, {path[0]: {path[1]: value} if len(path) == 2 else value})
    return strict.merge(tree, given), origin.with_given(given)


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command; errors propagate."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.source is None and arguments.config is None:
        parser.error("--source is required, such as --source sample, which needs no download")
    # RDKit and Ray take a second to import; --help and usage errors should not wait for them.
    from conformer_gen.config import BuildConfig

    config = strict.build(BuildConfig, *config_tree(arguments))
    if arguments.dry_run:
        from conformer_gen.run.estimate import estimate

        print(estimate(config))
        return 0
    from conformer_gen.run import driver

    result = driver.build(config)
    print(result.describe())
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0 when the store is finished, 2 for an error that the user can mend, 130 after Ctrl-C."""
    return run_command(lambda: run(argv), lambda: GOES_ON)


if __name__ == "__main__":
    sys.exit(main())
