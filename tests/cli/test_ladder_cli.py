import argparse

import pytest

from unimol_scale.cli import build_parser, main

# The command line is a promise: flags are added, never renamed or taken away without a line in the CHANGELOG.
FLAGS = {
    "--help-settings",
    "--budget", "--dry-run", "--help", "--law", "--next", "--only", "--output", "--slurm", "--submit", "-h", "config",
}  # fmt: skip


def test_the_flags_of_the_ladder_are_as_promised() -> None:
    (verbs,) = [action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction)]
    ladder = verbs.choices["ladder"]
    names = {name for action in ladder._actions for name in (action.option_strings or [action.dest])}
    assert names == FLAGS


def test_the_help_says_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["ladder", "--help"])
    text = capsys.readouterr().out
    for words in ("Slurm job array", "start nothing", "best next run", "training compute of the next run"):
        assert words in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["l.yaml", "--next", "runs"], "either a ladder file, or --next"),
        (["l.yaml", "--submit"], "--submit belongs to --slurm"),
        (["--next", "nowhere"], "nowhere does not exist"),
        (["l.yaml", "--slurm"], "l.yaml does not exist"),
        (["l.yaml", "--budget", "1e12"], "--budget belongs to --next"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ladder", *arguments]) == 2
    assert message in capsys.readouterr().err
