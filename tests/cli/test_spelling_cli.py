"""What every command says to a misspelt setting or flag, and what its settings are. Nothing is run but the parsers."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from unimol_scale.cli import main as cli
from unimol_scale.cli.verbs import build, pretrain

REPOSITORY = Path(__file__).resolve().parents[2]
VERBS = [
    ["finetune"], ["predict"], ["embed"], ["plan"], ["ladder"], ["fit-scaling-law"],
    ["store"], ["store", "info"], ["store", "verify"], ["store", "convert"],
    ["explain"], ["benchmark"], ["runs", "compare"], ["runs", "prune"],
    ["checkpoint"],
    ["checkpoint", "info"], ["checkpoint", "verify"], ["checkpoint", "import"], ["checkpoint", "export"],
]  # fmt: skip
PLAN = ["plan", "--size", "84M", "--gpus", "8"]
FINETUNE = ["finetune", "--target", "gap", "--from", "none", "--size", "0.03M", "--data", "set.csv"]


def run(main, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Return the exit status and everything that was printed."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    return status, captured.out + captured.err


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample_store: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample").symlink_to(sample_store)
    (tmp_path / "set.csv").write_text("smiles,gap\nCCO,1\nCCC,2\n")


@pytest.mark.parametrize(
    ("words", "right"),
    [
        (["epochs=3"], "did you mean 'train.epochs'?"),
        (["lr=3"], "did you mean 'train.learning_rate'?"),
        (["train.epoch=3"], "did you mean 'epochs'?"),
        (["train.learning-rate=3"], "did you mean 'learning_rate'?"),
        (["trian.epochs=3"], "did you mean 'train'?"),
        (["train.epochs", "=", "3"], "write train.epochs=3,"),
        (["train.epochs=", "3"], "write train.epochs=3,"),
        (["train.epochs = 3"], "write train.epochs=3,"),
        (["--train.epochs", "3"], "write train.epochs=3"),
        (["--train.epochs=3"], "write train.epochs=3"),
        (["--epochs", "3"], "write train.epochs=3"),
        (["--train.learning-rate", "3"], "write train.learning_rate=3"),
        (["train.epochs=many"], "train.epochs: expected a whole number, got 'many'"),
        (["train.epochs=true"], "train.epochs: expected a whole number, got True"),
        (["skip_bad=y"], "skip_bad: expected true or false, got 'y'"),
        (["smiles_column=on"], "smiles_column: expected text, got True (YAML reads the words yes, on"),
        (["split=yes"], "split: unknown value True; valid: cluster"),
        (["fractions=1"], "expected a list, such as fractions=[a, b], got 1"),
        (["train=3"], "expected a group of keys, such as train.probe, got 3"),
        (["--smiles_column", "s"], "did you mean --smiles-column?"),
        (["--lr", "3"], "write train.learning_rate=3"),
        (["--lable-fraction", "1"], "did you mean --label-fraction?"),
    ],
)
def test_a_misspelt_setting_of_finetune_is_told_the_right_way(
    capsys: pytest.CaptureFixture[str], words: list[str], right: str
) -> None:
    status, told = run(cli.main, [*FINETUNE, *words], capsys)
    assert status == 2
    assert right in told


@pytest.mark.parametrize(
    ("main", "arguments", "right"),
    [
        (cli.main, [*PLAN, "steps=5"], "did you mean 'train.steps'?"),
        (cli.main, [*PLAN, "train.steps", "=", "5", "--zero-stage", "1"], "write train.steps=5,"),
        (cli.main, [*PLAN, "--train.steps", "5"], "write train.steps=5"),
        (cli.main, [*PLAN, "zero.stage=true"], "zero.stage: unknown value True"),
        (cli.main, ["plan", "--sise", "84M"], "did you mean --size?"),
        (cli.main, ["predict", "f", "--form", "m", "--output", "o"], "did you mean --from?"),
        (cli.main, ["embed", "f", "--from", "m", "--output", "o", "--representtaion", "atom"], "--representation?"),
        (cli.main, ["embed", "f", "--from", "m", "--output", "o", "device=cpu"], "write --device cpu"),
        (
            cli.main,
            ["embed", "f", "--from", "m", "--output", "o", "train.steps=3"],
            "no settings of the form key=value",
        ),
        (cli.main, ["fit-scaling-law", "runs", "--holdout", "2"], "did you mean --hold-out?"),
        (cli.main, ["ladder", "l.yaml", "--rank", "2"], "ranks is a key of the file"),
        (cli.main, ["store", "convert", "d", "--backnd", "lmdb"], "did you mean --backend?"),
        (cli.main, ["store", "verfy", "d"], "did you mean verify?"),
        (cli.main, ["checkpoint", "export", "c", "--fromat", "official"], "did you mean --format?"),
        (cli.main, ["fintune"], "did you mean finetune?"),
        (pretrain.main, ["--size", "0.1M", "steps=5"], "did you mean 'train.steps'?"),
        (pretrain.main, ["--size", "0.1M", "--train.steps=5", "--dry-run"], "write train.steps=5"),
        (pretrain.main, ["--size", "0.1M", "train.steps", "5"], "write train.steps=5,"),
        (pretrain.main, ["--sizes", "0.1M"], "did you mean --size?"),
        (build.main, ["--source", "sample", "conformers=3"], "a group of keys, such as conformers.count"),
        (build.main, ["--source", "sample", "--conformers.count", "3"], "write conformers.count=3"),
        (build.main, ["--source", "sample", "--embed.conformers", "3"], "write conformers.count=3"),
        (build.main, ["--source", "smiles", "--input", "a.smi", "conformer=3"], "did you mean 'conformers'?"),
        (build.main, ["--source", "sample", "--converters", "3"], "did you mean --conformers?"),
    ],
)
def test_every_command_tells_the_right_spelling(
    capsys: pytest.CaptureFixture[str], main, arguments: list[str], right: str
) -> None:
    status, told = run(main, arguments, capsys)
    assert status == 2
    assert right in told


def test_settings_may_stand_anywhere_between_flags() -> None:
    parser = build.build_parser()
    words = ["seed=1", "--source", "smiles", "workers=2", "--input", "a.smi", "b.smi", "limit_s=90", "--limit", "3"]
    arguments = parser.parse_args([*words, "x=4"])
    assert arguments.input == ["a.smi", "b.smi"]
    assert sorted(arguments.assignments) == ["limit_s=90", "seed=1", "workers=2", "x=4"]


def test_a_label_may_be_named_behind_the_input() -> None:
    arguments = build.build_parser().parse_args(["--source", "csv", "--input", "a.csv", "source.labels.logS=mol/L"])
    assert (arguments.input, arguments.assignments) == (["a.csv"], ["source.labels.logS=mol/L"])


def test_a_file_with_an_equals_sign_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "seed=3").touch()
    arguments = build.build_parser().parse_args(["--source", "smiles", "--input", "seed=3", "seed=4"])
    assert (arguments.input, arguments.assignments) == (["seed=3"], ["seed=4"])


@pytest.mark.parametrize(
    ("main", "verb", "lines"),
    [
        (cli.main, ["finetune"], ["train.patience=20", "split=scaffold", "fractions=[0.8, 0.1, 0.1]", "metric=null"]),
        (cli.main, ["plan"], ["train.steps=810000", "zero.stage=null", "model.layers  (set by --size)"]),
        (cli.main, ["ladder"], ["sizes=…  (required)", "launcher=deepspeed"]),
        (pretrain.main, [], ["train.save_in_background=true", "objective.blend.ratio=[0.2, 0.2, 0.6]"]),
        (build.main, [], ["conformers.count=1", "curate.split=scaffold", "source.labels={}"]),
    ],
)
def test_settings_are_listed_with_default_type_and_meaning(
    capsys: pytest.CaptureFixture[str], main, verb: list[str], lines: list[str]
) -> None:
    status, told = run(main, [*verb, "--help-settings"], capsys)
    assert status == 0
    for line in lines:
        assert line in told.splitlines()
    assert max(map(len, told.splitlines())) <= 80
    # Every key has its type and a meaning.
    shown = told.splitlines()
    for at, key in enumerate(shown):
        if "=" in key.split(" ")[0] and not key.startswith(" "):
            meaning = " ".join(itertools.takewhile(lambda line: line.startswith("    "), shown[at + 1 :]))
            assert meaning.startswith("    ("), key
            assert meaning.partition(") ")[2], key


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help_settings_and_its_help_says_so(capsys: pytest.CaptureFixture[str], verb: list[str]) -> None:
    status, told = run(cli.main, [*verb, "--help-settings"], capsys)
    assert status == 0
    assert told
    status, told = run(cli.main, [*verb, "--help"], capsys)
    assert status == 0
    assert "--help-settings" in told


@pytest.mark.parametrize(
    ("main", "arguments", "command"),
    [
        (cli.main, ["predict", "set.csv", "--from", "lost", "--output", "o.csv"], "unimol-scale finetune"),
        (cli.main, ["explain", "lost", "set.csv", "--output", "why"], "unimol-scale finetune"),
        (cli.main, ["embed", "set.csv", "--from", "lost", "--output", "o.parquet"], "unimol-scale pretrain"),
        (cli.main, ["embed", "set.csv", "--from", "runs/lost", "--output", "o.parquet"], "unimol-scale pretrain"),
        (cli.main, ["finetune", "--from", "lost", "--data", "set.csv", "--target", "gap"], "unimol-scale pretrain"),
        (cli.main, ["checkpoint", "info", "lost"], "unimol-scale pretrain"),
        (cli.main, ["checkpoint", "verify", "lost"], "unimol-scale pretrain"),
        (cli.main, ["store", "info", "lost"], "unimol-scale build"),
        (cli.main, ["store", "verify", "lost"], "unimol-scale build"),
        (cli.main, [*PLAN, "--data", "lost"], "unimol-scale build"),
        (pretrain.main, ["--size", "0.1M", "--data", "lost", "--dry-run"], "unimol-scale build"),
        (cli.main, ["fit-scaling-law", "lost"], "unimol-scale ladder"),
        (cli.main, ["ladder", "--next", "lost"], "unimol-scale ladder"),
        (cli.main, ["ladder", "lost.yaml"], "configs/"),
    ],
)
def test_a_missing_input_names_the_command_that_makes_it(
    capsys: pytest.CaptureFixture[str], main, arguments: list[str], command: str
) -> None:
    status, told = run(main, arguments, capsys)
    assert status == 2
    assert "lost" in told
    assert command in told
    assert len(told.splitlines()) == 1


def test_help_settings_needs_no_torch_and_survives_a_pager_that_was_closed() -> None:
    code = """
import os, sys
from unimol_scale.cli import main as cli
reading, writing = os.pipe()
os.close(reading)
os.dup2(writing, 1)
try:
    cli.main(["finetune", "--help-settings"])
finally:
    assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
