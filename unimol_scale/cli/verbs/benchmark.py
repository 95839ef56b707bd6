"""The verb ``benchmark``: arguments and printing. Imports the rest only when it runs."""

import argparse
from pathlib import Path
from typing import Any

from unimol_scale.cli.command_line import as_sentence


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "convert a downloaded TDC or Polaris benchmark to a CSV table with the official split as a column"
    verb = verbs.add_parser(
        "benchmark", help=text, description=f"{as_sentence(text)} Neither library needs to be installed."
    )
    verb.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="TDC: a folder with train_val.csv and test.csv; Polaris: benchmark.json or its folder",
    )
    verb.add_argument("--output", type=Path, required=True, metavar="FILE", help="the CSV file to write")
    verb.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from unimol_scale.common.output_checks import require_file
    from unimol_scale.downstream.data.benchmarks.benchmark_table import read_benchmark, write_benchmark
    from unimol_scale.errors import ConfigError

    if arguments.output.suffix != ".csv":
        raise ConfigError(f"--output {arguments.output}: the name must end in .csv")
    require_file(arguments.output)
    found = read_benchmark(arguments.path)
    write_benchmark(arguments.output, found)
    print(found.describe(arguments.output))
    return 0
