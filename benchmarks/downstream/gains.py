"""Fine-tune pretrained and untrained models on the papers' sets, and report how much the pretraining improves scores.

    python -m benchmarks.downstream.gains --moleculenet DIR --qm9 STORE --pcqm4mv2 STORE \
        --start denoise=runs/2M-denoise --start blend=runs/2M-blend --fraction 1 0.25 --split scaffold-kfold

Every start is compared with the same model from random weights, on the same rows and splits, with the same settings,
and with forests and boosting on fingerprints and descriptors. Every fine-tuning has a folder under --work: what is
finished is read, so the same command goes on after an interruption, and parts (--set, --start, --part) can be made at
the same time and collected at the end (--collect). What an earlier report holds can be reported again (--earlier).

With a single split, which is the default, report.py writes the tables, with intervals over test molecules and seeds.
With a cross-validation (folds/), linear models on the vectors of the frozen starts are fitted as well, and other tools
can take part: --splits DIR writes the folds as CSV, and --external NAME=DIR reads what a tool predicts of them (see
chemprop_folds.py). Sets whose data is not given are left out.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

# As in every command, this comes before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from benchmarks.common import as_started, exit_status, module_parser
from benchmarks.downstream.baseline import Baseline, best_baseline
from benchmarks.downstream.folds.run_folds import PARTS, run_folds
from benchmarks.downstream.report import Cell, TriedRate, write_report
from benchmarks.downstream.sets import SETS, chosen_sets, settings, twin
from unimol_scale.downstream.config import KFOLDS, Pooling
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.finetuning_folder import RESULTS_NAME
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError

COMMAND = "python -m benchmarks.downstream.gains"


def finished_rates(
    options: argparse.Namespace, name: str, models: Sequence[str], fraction: float
) -> dict[str, tuple[float, ...]]:
    """Return, for each of some models, the learning rates that are finished of it and of all that it is compared with.

    A start with more rates to choose from than scratch would have an unfair advantage.
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


def run(options: argparse.Namespace) -> None:
    """Fine-tune what is not done yet, and write the report."""
    if wrong := [text for text in options.start if not all(text.partition("="))]:
        raise ConfigError(f"--start {wrong[0]}: give NAME=MODEL")
    starts = dict(text.split("=", 1) for text in options.start)
    if options.split not in KFOLDS and (options.external or options.splits):
        raise ConfigError(f"--external and --splits need a cross-validation: give --split {', '.join(KFOLDS[:3])}")
    if options.split not in KFOLDS and options.earlier:
        raise ConfigError(f"--earlier needs a cross-validation: give --split {', '.join(KFOLDS[:3])}")
    if options.earlier_only and not options.earlier:
        raise ConfigError("--earlier-only needs --earlier DIR")
    if options.split not in KFOLDS and not starts:
        raise ConfigError("--start NAME=MODEL is needed")
    (run_folds if options.split in KFOLDS else run_single)(options, starts)


def run_single(options: argparse.Namespace, starts: dict[str, str]) -> None:
    """Fine-tune with a single split what is not done yet, and write the report."""
    if unknown := {start for pair in options.pair for start in pair} - set(starts):
        raise ConfigError(f"--pair names models that no --start gives: {', '.join(sorted(unknown))}")
    cells: list[Cell] = []
    baselines: dict[tuple[str, float], Baseline] = {}
    for name in chosen_sets(options):
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
        write_report(options.output, as_started(COMMAND), starts, cells, baselines, twin, options.pair)
        print(options.output)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--moleculenet", type=Path, metavar="DIR", help="folder with the CSV files of six sets")
    parser.add_argument("--qm9", type=Path, metavar="STORE", help="of configs/build/qm9.yaml")
    parser.add_argument("--pcqm4mv2", type=Path, metavar="STORE", help="of configs/build/pcqm4mv2.yaml")
    parser.add_argument(
        "--start", action="append", default=[], metavar="NAME=MODEL", help="a model to compare, and its name in tables"
    )
    parser.add_argument(
        "--pair", action="append", nargs=2, default=[], metavar=("NEW", "OLD"), help="two starts to compare as well"
    )
    parser.add_argument(
        "--no-scratch", action="store_true", help="train no untrained models, if only pairs are of interest"
    )
    parser.add_argument("--set", action="append", choices=list(SETS), help="use only this set; may be repeated")
    parser.add_argument(
        "--fraction", type=float, nargs="+", default=[1.0], help="fractions of the training labels to use"
    )
    kinds = [kind for kind in KFOLDS if kind != "column-kfold"]
    parser.add_argument(
        "--split",
        choices=["scaffold", *kinds],
        default="scaffold",
        help="a single scaffold split, or a kind of cross-validation",
    )
    parser.add_argument("--folds", type=int, metavar="K", help="folds of a cross-validation (default: 5)")
    parser.add_argument(
        "--repeats",
        type=int,
        metavar="R",
        help="repeats of a cross-validation (default: 2 for sets below 2,500 rows, else 1)",
    )
    parser.add_argument(
        "--part",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="run or collect only these parts of a cross-validation",
    )
    parser.add_argument(
        "--pooling",
        nargs="+",
        choices=get_args(Pooling),
        default=["mean"],
        help="how atoms become the vectors of the probes of a cross-validation (default: mean)",
    )
    parser.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="folder with another tool's predictions for the folds",
    )
    parser.add_argument(
        "--splits", type=Path, metavar="DIR", help="write the folds to this folder for other tools, and stop"
    )
    parser.add_argument("--seeds", type=int, help="models per split (default: 3, or 1 per fold)")
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="epochs instead of each set's own number; use a separate --work"
    )
    parser.add_argument("--work", type=Path, default=Path("finetuned"), metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), metavar="DIR")
    parser.add_argument("--collect", action="store_true", help="only report what --work contains; compute nothing")
    parser.add_argument(
        "--earlier",
        type=Path,
        metavar="DIR",
        help="folder of an earlier report by cross-validation, whose results are reported as well unless they are "
        "computed or collected now",
    )
    parser.add_argument(
        "--earlier-only",
        action="append",
        default=[],
        metavar="NAME",
        help="of the earlier report, only this result, and only for sets computed or collected now; may be repeated",
    )
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="file for the tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 for an error that the user can correct."""
    return exit_status(lambda: run(build_parser().parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
