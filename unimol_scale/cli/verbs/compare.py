"""The verb ``compare``: arguments and printing. Imports the rest only when it runs."""

import argparse
from pathlib import Path
from typing import Any

from unimol_scale.cli.command_line import as_sentence


def add_verbs(verbs: Any) -> None:  # noqa: ANN401
    """Declare the verb.

    Args:
        verbs: what ``ArgumentParser.add_subparsers`` returned.
    """
    text = "compare cross-validations of the same data, and report which differences between models are significant"
    more = (
        "The folders must come from fine-tunings with the same data, metric, --split (a kind that ends in -kfold), "
        "--folds, --repeats and --seed. A difference is significant if its 95 % interval excludes 0. The intervals "
        "hold for all pairs simultaneously and are corrected for the training rows that folds share."
    )
    verb = verbs.add_parser("compare", help=text, description=f"{as_sentence(text)} {more}")
    verb.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="two or more folders that finetune wrote")
    verb.add_argument("--output", type=Path, metavar="FILE.md", help="write a report here, with a plot beside it")
    verb.set_defaults(run=_run, stopped="Stopped. Nothing was written.")


def _run(arguments: argparse.Namespace) -> int:
    from unimol_scale.downstream.comparison.compare import compare_folds

    comparison = compare_folds(arguments.folders)
    if arguments.output is not None:
        from unimol_scale.downstream.comparison.comparison_report import write_comparison

        write_comparison(arguments.output, comparison)
    print(comparison)
    if arguments.output is not None:
        print(f"report: {arguments.output}")
    return 0
