"""Compare learning rates and epochs, on which the defaults of ``finetune`` are based, over folds of several sets.

    python -m benchmarks.downstream.default_settings --moleculenet DIR --pcqm4mv2 STORE --cache DIR \
        --try 1e-4:60 --try 5e-4:30 --output default_settings.md

Every other setting is the default of ``finetune``. All settings are tried on the same rows and folds by scaffold. They
are judged by their scores on validation rows; the scores on test rows are compared to see that nothing is lost. Every
fine-tuning has a folder under --work: what is finished is read, so the same command goes on after an interruption, and
parts (--set, --try) can be made at the same time and collected at the end by a command that names all of them.
"""

import argparse
import datetime
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import as_started, deliver, exit_status, module_parser, processor
from benchmarks.downstream.sets import SETS, chosen_sets, data_of, file_name
from unimol_scale.checkpoints.shipped import DEFAULT_MODEL
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.comparison.compare import compare_folds
from unimol_scale.downstream.config import FinetuneConfig, FinetuneTrainConfig
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.results import FinetuneResult

COMMAND = "python -m benchmarks.downstream.default_settings"
SETS_TRIED = ("ESOL", "FreeSolv", "BACE", "PCQM4Mv2 gap")


@dataclass(frozen=True)
class Tried:
    """A learning rate and the largest number of epochs."""

    rate: float
    epochs: int

    def __str__(self) -> str:
        return f"{self.rate:g}, {self.epochs} epochs"


def tried(text: str) -> Tried:
    """Return what RATE:EPOCHS on the command line says."""
    rate, _, epochs = text.partition(":")
    return Tried(rate=float(rate), epochs=int(epochs))


def config_of(options: argparse.Namespace, name: str, one: Tried) -> FinetuneConfig:
    """Return the fine-tuning of one set with one setting."""
    return FinetuneConfig(
        data=data_of(options, name),
        pretrained=options.model,
        targets=SETS[name].targets,
        metric=SETS[name].metric,
        split="scaffold-kfold",
        skip_bad=True,
        output=options.work / f"{file_name(name)}-{one.rate:g}-{one.epochs}",
        cache=options.cache,
        train=FinetuneTrainConfig(learning_rate=one.rate, epochs=one.epochs),
        baselines=False,
    )


def rows_of_set(name: str, found: dict[Tried, tuple[Path, FinetuneResult]]) -> list[list[str]]:
    """Return the rows of one set in the table, one for each setting; each is compared with the first setting alone."""
    first, *_ = found
    sign = 1.0 if found[first][1].prefers_high else -1.0
    valid = {one: [seed.valid for seed in outcome.seeds] for one, (_, outcome) in found.items()}
    rows = []
    for one, (folder, outcome) in found.items():
        wins = difference = ""
        if one != first:
            pairs = zip(valid[one], valid[first], strict=True)
            wins = f"{sum(sign * new > sign * old for new, old in pairs)} of {len(valid[one])}"
            (pair,) = compare_folds([folder, found[first][0]]).pairs
            way = 1.0 if pair.better == 0 else -1.0
            low, high = sorted((way * pair.interval.low, way * pair.interval.high))
            difference = f"{way * pair.difference:+.3g} ({low:+.3g} to {high:+.3g})"
        rows.append(
            [
                name,
                f"{SETS[name].metric}",
                str(one),
                f"{statistics.fmean(valid[one]):.4g}",
                wins,
                f"{outcome.mean:.4g}",
                difference,
                f"{statistics.fmean(len(seed.losses) for seed in outcome.seeds):.1f}",
                f"{statistics.fmean(seed.best_epoch for seed in outcome.seeds):.1f}",
            ]
        )
    return rows


def report(options: argparse.Namespace) -> str:
    """Fine-tune what is not done yet, and return the report."""
    table = []
    for name in chosen_sets(options):
        configs = {one: config_of(options, name, one) for one in options.tried}
        table += rows_of_set(name, {one: (config.folder, finetune(config)) for one, config in configs.items()})
    columns = [
        "set", "metric", "learning rate, epochs at most", "validation, mean of folds", "folds better than the first",
        "test, mean of folds", "difference to the first (95 % interval)", "epochs trained", "best epoch",
    ]  # fmt: skip
    return "\n".join(
        [
            "# Learning rates and epochs of a fine-tuning",
            "",
            f"- {datetime.datetime.now(datetime.UTC).date()}, {processor()}",
            f"- `{as_started(COMMAND)}`",
            f"- {options.model}, five folds by scaffold, one model a fold; all other settings are the defaults",
            "- epochs trained and best epoch are means of the folds; training stops early as `train.patience` says",
            "",
            *markdown_table(columns, table),
            "",
        ]
    )


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--moleculenet", type=Path, metavar="DIR", help="folder with the CSV files of the sets")
    parser.add_argument("--pcqm4mv2", type=Path, metavar="STORE", help="of configs/build/pcqm4mv2.yaml")
    parser.add_argument("--set", action="append", choices=SETS_TRIED, help="use only this set; may be repeated")
    parser.add_argument(
        "--try", dest="tried", type=tried, action="append", required=True, metavar="RATE:EPOCHS",
        help="peak learning rate and largest number of epochs; may be repeated; the others are compared with the first",
    )  # fmt: skip
    parser.add_argument("--model", default=DEFAULT_MODEL, help=f"model to fine-tune (default: {DEFAULT_MODEL})")
    parser.add_argument("--work", type=Path, default=Path("finetuned/defaults"), metavar="DIR")
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE.md", help="file of the report")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 2 for an error that the user can correct."""
    options = build_parser().parse_args(argv)
    options.set = options.set or [name for name in SETS_TRIED if getattr(options, SETS[name].source) is not None]
    return exit_status(lambda: deliver(report(options), options.output))


if __name__ == "__main__":
    sys.exit(main())
