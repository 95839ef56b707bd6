"""The commands of the README are those of the programs: every one of them is parsed, and names files that are there."""

import re
import shlex
from pathlib import Path

import pytest

from conformer_gen.build import build_parser as build_command
from unimol_scale.cli import build_parser as verbs
from unimol_scale.engine.command import build_parser as pretrain_command

REPOSITORY = Path(__file__).resolve().parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
OUR_FILE = re.compile(r"(?:configs|benchmarks|launch|conformer_gen|tests)/[\w./-]*\w")


def commands() -> list[list[str]]:
    """Return the indented commands that start a program of ours."""
    lines = re.findall(r"^    ((?:unimol-scale|python|deepspeed) .*)$", README, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_of_the_readme_is_understood(words: list[str]) -> None:
    if words[0] == "unimol-scale":
        _, rest = verbs().parse_known_args(words[1:])
        assert all("=" in word and word[0] != "-" for word in rest), rest
        return
    parser = {"conformer_gen/build.py": build_command, "launch/pretrain.py": pretrain_command}[words[1]]()
    parser.parse_args(words[2:])


def test_the_readme_names_files_that_are_there() -> None:
    named = set(OUR_FILE.findall(README))
    assert len(named) > 20
    assert not {name for name in named if not (REPOSITORY / name).exists()}


def test_the_readme_has_the_three_commands_on_its_face() -> None:
    starts = [" ".join(words[:2]) for words in commands()]
    assert {"python conformer_gen/build.py", "deepspeed launch/pretrain.py"} <= set(starts)
    assert "unimol-scale fit-scaling-law" in starts
