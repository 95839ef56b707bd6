"""The verb ``benchmark``: arguments and printing. Imports the rest only when it runs."""

import argparse
from pathlib import Path
from typing import Any


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "make one table, with the official split as a column, of a benchmark of TDC or Polaris on this disk"
    verb = verbs.add_parser("benchmark", help=text, description=f"{text}. Neither library is needed.")
    verb.add_argument(
        "path",
        type=Path,
        metavar="PATH",
        help="of TDC a folder with train_val.csv and test.csv; of Polaris benchmark.json or its folder",
    )
    verb.add_argument("--output", type=Path, required=True, metavar="FILE", help="CSV")
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
