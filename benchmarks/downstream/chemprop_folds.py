"""Cross-validate chemprop with its defaults on the folds that gains.py writes. Runs in chemprop's own environment.

    python -m venv chemprop-env && chemprop-env/bin/pip install 'chemprop==2.3.*'
    python -m benchmarks.downstream.gains … --split scaffold-kfold --splits folds
    chemprop-env/bin/python benchmarks/downstream/chemprop_folds.py folds --output chemprop
    python -m benchmarks.downstream.gains … --split scaffold-kfold --external chemprop=chemprop

Imports the standard library only, since chemprop pins other versions than this project; it calls the command
``chemprop train`` of the environment whose Python runs it. All settings are that command's defaults, but for the seed,
which is the number of the fold: a message-passing network of width 300 and 50 epochs, whose best one by the loss of the
validation rows predicts the test rows. What is finished is kept, fold by fold, so the same command goes on after an
interruption.
"""

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROW, SMILES, PART = "row", "smiles", "part"
FOLD_COLUMN = re.compile(r"repeat (\d+) fold (\d+)")
PART_OF = {"train": "train", "valid": "val", "test": "test"}  # the words of chemprop
Lines = list[dict[str, str]]
Fit = Callable[[Path, Path, Sequence[str], str, int], Path]


def cross_validate(path: Path, output: Path, fit: Fit) -> Path:
    """Predict the test rows of every fold of a file, and write all together: row, repeat, fold, and the targets.

    Args:
        path: of gains.py: row, smiles, the targets, and a column of parts for each fold.
        output: gets a file of the same name, and a folder with what is finished.
        fit: trains on a table with smiles, targets and part, and returns the file of its predictions.

    Returns:
        The file.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    names = list(lines[0])
    folds = [name for name in names if FOLD_COLUMN.fullmatch(name)]
    targets = [name for name in names if name not in (ROW, SMILES, *folds)]
    whole: Lines = []
    for number, fold in enumerate(folds):
        done = output / path.stem / f"{fold.replace(' ', '-')}.csv"
        if not done.is_file():
            used = [line for line in lines if line[fold]]
            _write(done, _predicted(used, fold, targets, fit, number))
        with done.open(encoding="utf-8", newline="") as file:
            whole += list(csv.DictReader(file))
    _write(output / path.name, whole)
    return output / path.name


def _predicted(used: Lines, fold: str, targets: Sequence[str], fit: Fit, number: int) -> Lines:
    """Return the lines of the test rows of one fold with predictions in place of labels."""
    place = FOLD_COLUMN.fullmatch(fold)
    assert place is not None, "the name of a fold"
    test = [line for line in used if line[fold] == "test"]
    task = "classification" if all(line[name] in ("", "0", "1") for line in used for name in targets) else "regression"
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "fold.csv"
        columns = [SMILES, *targets]
        _write(table, [{**{name: line[name] for name in columns}, PART: PART_OF[line[fold]]} for line in used])
        with fit(table, Path(folder) / "out", targets, task, number).open(encoding="utf-8", newline="") as file:
            found = list(csv.DictReader(file))
    if [line[SMILES] for line in found] != [line[SMILES] for line in test]:
        sys.exit(f"error: {fold}: the predictions are of other molecules, or in another order, than the test rows")
    where = {"repeat": place[1], "fold": place[2]}
    return [
        {ROW: line[ROW], **where, **{name: values[name] for name in targets}}
        for line, values in zip(test, found, strict=True)
    ]


def chemprop_fit(epochs: int | None) -> Fit:
    """Return what trains by the command line of chemprop, for its own number of epochs or another one."""
    command = Path(sys.executable).with_name("chemprop")
    if not command.is_file():
        sys.exit(f"error: there is no {command}; run this with the Python of an environment that has chemprop")

    def fit(table: Path, output: Path, targets: Sequence[str], task: str, seed: int) -> Path:
        asked = ["--data-path", table, "--output-dir", output, "--smiles-columns", SMILES, "--splits-column", PART]
        asked += ["--target-columns", *targets, "--task-type", task, "--pytorch-seed", seed]
        asked += [] if epochs is None else ["--epochs", epochs]
        subprocess.run([str(word) for word in (command, "train", *asked)], check=True)
        return output / "model_0" / "test_predictions.csv"

    return fit


def _write(path: Path, lines: Lines) -> None:
    """Write a table, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(lines)
    temporary.replace(path)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folds", type=Path, help="folder that gains.py --splits wrote")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="use only these files of the folder, named without .csv, such as ESOL-1",
    )
    parser.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the predictions; give it to gains.py --external",
    )
    parser.add_argument("--epochs", type=int, help="number of epochs (default: chemprop's)")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Cross-validate chemprop on every file of a folder."""
    options = build_parser().parse_args(argv)
    files = sorted(path for path in options.folds.glob("*.csv") if options.only is None or path.stem in options.only)
    if not files:
        sys.exit(f"error: {options.folds} has no such file")
    fit = chemprop_fit(options.epochs)
    for path in files:
        print(cross_validate(path, options.output, fit), flush=True)


if __name__ == "__main__":
    main()
