"""Fine-tune pretrained models and untrained ones on the papers' sets, and write down how much the pretraining is worth.

    python -m benchmarks.downstream.gains --moleculenet DIR --qm9 STORE --start denoise=runs/2M-denoise-seed0 \
        --start blend=runs/2M-blend-seed0 --start student=runs/2M-distill-seed0 --fraction 1 0.25

Every start is compared with the same model from random weights, on the same split, with the same settings, and with
forests and boosting (baseline.py). With --split scaffold-kfold --folds 5 --repeats 2, or another cross-validation, all
starts and scratch are compared by unimol_scale.downstream.comparison, without baselines, and fold_report.py writes the
tables. Every fine-tuning has a folder under --work: what is finished is read, so the
same command goes on after an interruption, and parts (--set, --start) can be made at the same time and collected at the
end (--collect). This file says what is fine-tuned and has it done; report.py writes the tables.
"""

import argparse
import dataclasses
import os
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

# As every command has it, and before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.common import as_started, module_parser
from benchmarks.downstream.baseline import Baseline, best_baseline
from benchmarks.downstream.fold_report import ChosenStart, ComparedStarts, best_by_validation, write_fold_report
from benchmarks.downstream.report import SCRATCH, Cell, TriedRate, write_report
from unimol_scale.checkpoints.weights import identify
from unimol_scale.downstream.comparison.fold_results import read_fold_result
from unimol_scale.downstream.config import KFOLDS, FinetuneConfig, FinetuneTrainConfig
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.results import RESULTS_NAME, FinetuneResult
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError, UnimolScaleError

COMMAND = "python -m benchmarks.downstream.gains"

RATE = 5e-4


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSet:
    """One set and how long it is fitted; the settings were fixed before any test score was looked at.

    Attributes:
        file: within --moleculenet; empty: the store of --qm9.
        target: label column.
        metric: of the field.
        epochs: at most; more for smaller sets.
        rates: learning rates, of which every start takes the one that is better on validation.
    """

    file: str
    target: str
    metric: str
    epochs: int
    rates: tuple[float, ...] = (RATE,)


SETS = {
    "ESOL": DataSet(
        file="ESOL_delaney-processed.csv", target="measured log solubility in mols per litre", metric="rmse", epochs=30
    ),
    "FreeSolv": DataSet(file="FreeSolv_SAMPL.csv", target="expt", metric="rmse", epochs=40),
    "Lipophilicity": DataSet(file="Lipophilicity.csv", target="exp", metric="rmse", epochs=6),
    "BACE": DataSet(file="bace.csv", target="Class", metric="roc_auc", epochs=12, rates=(RATE, 1e-4)),
    "BBBP": DataSet(file="BBBP.csv", target="p_np", metric="roc_auc", epochs=10, rates=(RATE, 1e-4)),
    "QM9 gap": DataSet(file="", target="gap", metric="mae", epochs=4),
}


def fitting(epochs: int, rate: float) -> FinetuneTrainConfig:
    """Return how every model is fitted, pretrained or not."""
    return FinetuneTrainConfig(
        learning_rate=rate,
        batch_size=32,
        epochs=epochs,
        warm_up=0.1,
        patience=max(epochs // 2, 5),
    )


def settings(
    options: argparse.Namespace, name: str, model: str, fraction: float, *, reinitialise: bool, rate: float = RATE
) -> FinetuneConfig:
    """Return the fine-tuning of one cell of the table.

    Args:
        options: of the command line.
        name: of the set.
        model: what the weights, or the dimensions, are of.
        fraction: of the training labels.
        reinitialise: random weights.
        rate: learning rate.
    """
    chosen = SETS[name]
    start = Path(model).name + (f"-{SCRATCH}" if reinitialise else "")
    chosen_rate = "" if rate == RATE else f"-{rate:g}"
    chosen_split = "" if options.split == "scaffold" else f"-{options.split}"
    return FinetuneConfig(
        data=options.moleculenet / chosen.file if chosen.file else options.qm9,
        pretrained=model,
        reinitialise=reinitialise,
        targets=(chosen.target,),
        metric=chosen.metric,
        split=options.split,
        folds=options.folds,
        repeats=options.repeats,
        label_fraction=fraction,
        seeds=options.seeds,
        skip_bad=True,
        output=options.work / f"{name.replace(' ', '-')}-{start}-{fraction:g}{chosen_rate}{chosen_split}",
        cache=options.cache,
        train=fitting(options.epochs or chosen.epochs, rate),
        baselines=False,  # they are the same for all starts and rates: fitted once, by baseline.py
    )


def twin(model: str) -> str:
    """Return what makes two models the same but for their weights."""
    return repr(identify(model)[0])


def finished_rates(
    options: argparse.Namespace, name: str, models: Sequence[str], fraction: float
) -> dict[str, tuple[float, ...]]:
    """Return, for each of some models, the learning rates that are finished of it and of all that it is compared with.

    A start that was given more rates to choose from than scratch would win by that.
    """

    def finished(model: str, *, reinitialise: bool) -> set[float]:
        folders = {
            rate: settings(options, name, model, fraction, reinitialise=reinitialise, rate=rate).folder
            for rate in SETS[name].rates
        }
        return {rate for rate, folder in folders.items() if (folder / RESULTS_NAME).is_file()}

    rates = {}
    for model in models:
        twins = [other for other in models if twin(other) == twin(model)]
        each = [finished(other, reinitialise=anew) for other in twins for anew in (False, True)]
        rates[model] = tuple(sorted(set.intersection(*[some for some in each if some] or [set()]), reverse=True))
    return rates


def fitted(
    options: argparse.Namespace,
    name: str,
    label: str,
    model: str,
    fraction: float,
    rates: Sequence[float],
    *,
    reinitialise: bool,
) -> Cell | None:
    """Return a cell at the learning rate that is best on validation; None where nothing is collected."""
    found: dict[float, tuple[FinetuneResult, str]] = {}
    for rate in rates:
        config = settings(options, name, model, fraction, reinitialise=reinitialise, rate=rate)
        if not options.collect or (config.folder / RESULTS_NAME).is_file():
            found[rate] = finetune(config), str(config.folder)
    if not found:
        return None
    sign = 1.0 if METRICS[SETS[name].metric].higher_is_better else -1.0
    tried = tuple(
        TriedRate(rate=rate, valid=statistics.fmean(seed.valid for seed in outcome.seeds), test=outcome.mean)
        for rate, (outcome, _) in found.items()
    )
    rate = max(tried, key=lambda one: sign * one.valid).rate
    outcome, folder = found[rate]
    return Cell(
        set=name, start=label, fraction=fraction, scratch=reinitialise, outcome=outcome, folder=folder, rate=rate,
        tried=tried,
    )  # fmt: skip


def run_folds(options: argparse.Namespace, starts: dict[str, str]) -> None:
    """Cross-validate what is not done yet, compare all starts and scratch on every set, and write the report.

    With --collect, starts that are not finished at every rate are left out.
    """
    compared = []
    for name in options.set or SETS:
        for fraction in options.fraction:
            found = [
                chosen
                for label, model, reinitialise in with_scratch(starts, wanted=not options.no_scratch)
                if (chosen := crossed(options, name, label, model, fraction, reinitialise=reinitialise)) is not None
            ]
            if len(found) > 1:
                compared.append(ComparedStarts.of(name, fraction, found))
    if options.output:
        write_fold_report(options.output, as_started(COMMAND), compared)
        print(options.output)


def with_scratch(starts: dict[str, str], *, wanted: bool) -> list[tuple[str, str, bool]]:
    """Return name, model and whether its weights are random, of each start and of scratch once for equal dimensions."""
    scratch: dict[str, tuple[str, str, bool]] = {}
    if wanted:
        for label, model in starts.items():
            scratch.setdefault(twin(model), (f"{SCRATCH} ({label})", model, True))
    return [*((label, model, False) for label, model in starts.items()), *scratch.values()]


def crossed(
    options: argparse.Namespace, name: str, label: str, model: str, fraction: float, *, reinitialise: bool
) -> ChosenStart | None:
    """Return the cross-validation of a start at the rates that are best on validation; None if it is not collected."""
    configs = {
        rate: settings(options, name, model, fraction, reinitialise=reinitialise, rate=rate)
        for rate in SETS[name].rates
    }
    if options.collect and not all((config.folder / RESULTS_NAME).is_file() for config in configs.values()):
        return None
    for config in configs.values():
        finetune(config)
    return best_by_validation(label, {rate: read_fold_result(label, one.folder) for rate, one in configs.items()})


def run(options: argparse.Namespace) -> None:
    """Fine-tune what is not done yet, and write the report."""
    starts = dict(text.split("=", 1) for text in options.start)
    (run_folds if options.split in KFOLDS else run_single)(options, starts)


def run_single(options: argparse.Namespace, starts: dict[str, str]) -> None:
    """Fine-tune with a single split what is not done yet, and write the report."""
    if unknown := {start for pair in options.pair for start in pair} - set(starts):
        raise ConfigError(f"--pair names what no --start does: {', '.join(sorted(unknown))}")
    cells: list[Cell] = []
    baselines: dict[tuple[str, float], Baseline] = {}
    for name in options.set or SETS:
        for fraction in options.fraction:
            scratch: set[str] = set()  # models of the same dimensions share it
            rates = dict.fromkeys(starts.values(), SETS[name].rates)
            if options.collect:
                rates = finished_rates(options, name, list(starts.values()), fraction)
            for label, model in starts.items():
                for reinitialise in (True, False):
                    if reinitialise and (options.no_scratch or twin(model) in scratch):
                        continue
                    cell = fitted(options, name, label, model, fraction, rates[model], reinitialise=reinitialise)
                    if cell is None:
                        continue
                    if reinitialise:
                        scratch.add(twin(model))
                    cells.append(cell)
                    if options.output and (name, fraction) not in baselines:
                        baselines[name, fraction] = best_baseline(Path(cell.folder), cell.outcome)
    if options.output:
        # Of places on this machine, their names only.
        words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
        command = f"{COMMAND} {shlex.join(words)}"
        write_report(options.output, command, starts, cells, baselines, twin, options.pair)
        print(options.output)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--moleculenet", type=Path, required=True, metavar="DIR", help="with the CSV files of SETS")
    parser.add_argument("--qm9", type=Path, required=True, metavar="STORE", help="of configs/build/qm9.yaml")
    parser.add_argument("--start", action="append", required=True, metavar="NAME=MODEL", help="what is compared")
    parser.add_argument(
        "--pair", action="append", nargs=2, default=[], metavar=("NEW", "OLD"), help="two starts to compare as well"
    )
    parser.add_argument("--no-scratch", action="store_true", help="where only pairs are wanted: no untrained models")
    parser.add_argument("--set", action="append", choices=list(SETS), help="some of the sets only")
    parser.add_argument("--fraction", type=float, nargs="+", default=[1.0], help="of the training labels")
    kinds = [kind for kind in KFOLDS if kind != "column-kfold"]
    parser.add_argument("--split", choices=["scaffold", *kinds], default="scaffold", help="once, or a cross-validation")
    parser.add_argument("--folds", type=int, metavar="K", help="of a cross-validation (default: 5)")
    parser.add_argument("--repeats", type=int, default=1, metavar="R", help="of a cross-validation")
    parser.add_argument("--seeds", type=int, help="models of each split (default: 3; of each fold 1)")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of each set's own; wants its own --work")
    parser.add_argument("--work", type=Path, default=Path("finetuned"), metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), metavar="DIR")
    parser.add_argument("--collect", action="store_true", help="only write down what --work has; compute nothing more")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="write the tables there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 for an error that the user can mend."""
    try:
        run(build_parser().parse_args(argv))
    except UnimolScaleError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
