"""The ``unimol-scale`` command: finds the verb, runs it, and turns errors into one line and an exit status.

Every verb has a file in ``verbs``, which declares its arguments and imports heavy libraries only when it runs.
"""

import argparse
import sys
from collections.abc import Sequence

from unimol_scale.cli.command_line import CommandParser
from unimol_scale.cli.entry import run_command
from unimol_scale.cli.verbs import (
    benchmark,
    build,
    checkpoint,
    compare,
    embed,
    explain,
    finetune,
    fit_scaling_law,
    ladder,
    model,
    plan,
    predict,
    pretrain,
    runs,
    store,
)

# In the order in which --help lists them.
VERBS = (
    build, pretrain, runs, fit_scaling_law, ladder, plan, finetune, compare, predict, explain, embed, model, store,
    checkpoint, benchmark,
)  # fmt: skip
_DESCRIPTION = (
    "Build conformer stores, pretrain molecular models with DeepSpeed ZeRO, fit scaling laws, fine-tune and predict."
)


def build_parser() -> CommandParser:
    """Return the parser with all verbs."""
    parser = CommandParser(prog="unimol-scale", description=_DESCRIPTION)
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # given by some launchers
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        verb.add_verbs(verbs)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        The exit status: 0 if the work is done, 1 if it failed or a check did not pass, 2 for an error that the user can
        fix, 75 if the work was stopped after saving its state, 130 after Ctrl-C, 141 if the output is a closed pipe.
    """
    stopped = "Stopped."

    def work() -> int:
        nonlocal stopped
        parser = build_parser()
        if not (sys.argv[1:] if argv is None else argv):
            parser.print_help()
            return 2
        arguments = parser.parse_args(argv)
        stopped = getattr(arguments, "stopped", stopped)
        status: int = arguments.run(arguments)
        return status

    return run_command(work, lambda: stopped)


if __name__ == "__main__":
    sys.exit(main())
