"""The command line as a whole: its words, which stay, its two scripts beside it, and its quick start."""

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unimol_scale.cli.main import build_parser
from unimol_scale.cli.main import main as cli_main
from unimol_scale.cli.verbs import build, pretrain

REPOSITORY = Path(__file__).resolve().parents[2]
# Every verb, what it takes in order, and its flags. Whoever adds a word adds it here, with a line in the changelog;
# whoever takes one away breaks somebody's scripts.
EVERYWHERE = "-h --help --help-settings"
WORDS = {
    "build": (
        "key=value --backend --config --conformers --dry-run --engine --exclude --hydrogens --input --limit "
        "--output --ray-address --sample --seed --source --workers"
    ),
    "pretrain": (
        "key=value --config --data --dry-run --extend --init --local-rank --local_rank --no-resume "
        "--objective --output --override --profile --resume --size"
    ),
    "fit-scaling-law": (
        "RUNS --bootstrap --budget --burn-in --burn-in-steps --column --data-unit --distinct --hold-out --law "
        "--leave-out --output --parameters --predict --rates --size-of --task --trajectories --trunks --variable"
    ),
    "ladder": (
        "CONFIG --atoms --budget --device --dry-run --law --next --objective --only --output --rate-law --slurm "
        "--submit"
    ),
    "plan": (
        "key=value --atoms --config --data --device --gpu-memory --gpus --json --mfu --network --objective "
        "--peak-flops --size --zero-stage"
    ),
    "finetune": (
        "key=value --baselines --cache --calibration-fraction --censored --class-weights --config --conformal "
        "--conformers --coverage --data --device --domain --folds --fragments --from --hydrogens --inputs "
        "--label-fraction --learning-curve --lora --loss --metric --models-at-once --no-baselines --no-domain "
        "--no-hydrogens --order --output --plan --pooling --positive --pretraining-store --probe --reinitialise "
        "--repeats --seed --seeds --size --skip-bad --smiles-column --split --split-column --target --task "
        "--transform --tune --weight-column"
    ),
    "compare": "DIR --output",
    "predict": (
        "FILE --cache --conformers --coverage --device --dropout-samples --fragments --from --max-pairs --no-domain "
        "--output --skip-bad --smiles-column"
    ),
    "explain": "MODEL INPUT --cache --conformers --device --max-pairs --output --skip-bad --smiles-column",
    "embed": (
        "FILE_OR_STORE --cache --conformers --device --fragments --from --hydrogens --inputs --max-atoms --max-pairs "
        "--no-hydrogens --output --pooling --precision --representation --skip-bad --smiles-column"
    ),
    "runs list": "RUNS",
    "runs table": "RUNS --output",
    "runs compare": "RUNS --output",
    "runs prune": "RUNS --dry-run --yes",
    "model list": "",
    "model card": "MODEL",
    "model pack": "RUN --name --output --precision --scores",
    "model push": "MODEL OWNER/NAME --precision --private",
    "store info": "DIR",
    "store verify": "DIR",
    "store convert": "DIR --backend --output",
    "checkpoint info": "PATH",
    "checkpoint verify": "PATH --device --dtype --features --reference --tolerance",
    "checkpoint import": "RELEASED --output",
    "checkpoint export": "PATH --format --output --weights",
    "benchmark": "PATH --output",
}


def parsers(parser: argparse.ArgumentParser, verb: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield every verb with its parser, those of sub-verbs included."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield verb, parser
    for group in groups:
        for name, inner in group.choices.items():
            yield from parsers(inner, f"{verb} {name}".strip())


def words(parser: argparse.ArgumentParser) -> str:
    """Return what a parser takes: positional arguments in their order, then flags."""
    positional = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
    flags = {flag for action in parser._actions for flag in action.option_strings}
    assert flags.issuperset(EVERYWHERE.split())
    return " ".join([*positional, *sorted(flags - set(EVERYWHERE.split()))])


def test_verbs_and_flags_are_the_agreed_ones() -> None:
    assert {verb: words(parser) for verb, parser in parsers(build_parser())} == WORDS


def test_no_help_waits_for_a_heavy_library() -> None:
    program = """
import contextlib, io, sys
from tests.cli.test_command_line import WORDS
from unimol_scale.cli import main
for verb in ("", *WORDS):
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        main.main([*verb.split(), "--help"])
    assert told.getvalue().startswith("usage:"), verb
print({"torch", "deepspeed", "ray", "rdkit", "numpy", "pyarrow", "scipy", "sklearn"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        (build, ["build", "--source", "zinc"]),
        (build, ["build", "--source", "zinc20", "--input", "nowhere.smi", "--dry-run"]),
        (pretrain, ["pretrain", "--size", "0.1m", "--data", "nowhere"]),
        (pretrain, ["pretrain", "--data", "nowhere"]),
        (pretrain, ["pretrain", "--size", "0.1M", "--data", "nowhere", "--dry-run", "train.warmup_steps=0"]),
    ],
)
def test_the_scripts_end_as_the_verbs_do(script, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    ends = [(main(words), capsys.readouterr()) for main, words in ((cli_main, arguments), (script.main, arguments[1:]))]
    assert ends[0] == ends[1]
    status, told = ends[0]
    assert (status, told.out, told.err.count("error: ")) == (2, "", 1)


@pytest.mark.parametrize(("script", "verb"), [(build, "build"), (pretrain, "pretrain")])
def test_the_scripts_of_a_checkout_take_what_the_verbs_take(script, verb: str) -> None:
    assert words(script.build_parser()) == WORDS[verb]


def test_the_first_help_is_written_for_users(capsys):
    with pytest.raises(SystemExit):
        cli_main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "pretrain molecular models with DeepSpeed ZeRO" in said
