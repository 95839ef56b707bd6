"""Do conformal intervals contain as many labels as they promise? Random splits of a data set, frozen vectors, ridge.

    python -m benchmarks.downstream.conformal_coverage Lipophilicity.csv --target exp --output conformal_coverage.md

The molecules are embedded once, with a model that is not fitted to them. Every split is 80 : 10 : 10 at random. Split
conformal: a ridge regression of the training rows, whose penalty the validation rows choose, which then calibrate the
intervals, as ``finetune`` has it. CV+: five folds of the training and the validation rows. Coverage and width are of
the test rows. The coverage of one split scatters, as its test rows and its calibration rows are a sample; the mean over
all splits is what is promised.

Shapes: M molecules, D channels, T test rows, G folds.
"""

import argparse
import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.common import as_started, deliver, module_parser, processor
from unimol_scale.checkpoints.shipped import DEFAULT_MODEL
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.downstream.data.labelled_tables import read_table
from unimol_scale.downstream.embedding.molecular_model import from_pretrained
from unimol_scale.downstream.uncertainty.conformal import conformal_intervals
from unimol_scale.store.schema import Float32, Float64, Int64

COMMAND = "python -m benchmarks.downstream.conformal_coverage"
PENALTIES = (1.0, 10.0, 100.0, 1000.0)
FOLDS = 5
TOLERANCE = 0.02  # of the mean coverage over splits

Ends = tuple[Float64, Float64]
Predictor = Callable[[Float32], Float64]


@dataclass(frozen=True, kw_only=True)
class FoundIntervals:
    """Intervals for the test rows of one split.

    Attributes:
        method: the method that made them.
        coverage: the coverage that they promise.
        held: fraction of the test labels inside them.
        width: their mean width.
    """

    method: str
    coverage: float
    held: float
    width: float


def judge_split(
    vector_MD: Float32, label_M: Float64, order_M: Int64, coverages: Sequence[float]
) -> list[FoundIntervals]:
    """Return what both methods come to on the test rows of a split.

    Args:
        vector_MD: of the molecules.
        label_M: their labels.
        order_M: int64, the rows in the order in which they are dealt to training, validation and test.
        coverages: 1 − α of each level.
    """
    train, valid, test = np.split(order_M, [int(0.8 * len(order_M)), int(0.9 * len(order_M))])
    penalty, model = _best(vector_MD, label_M, train, valid)
    score_N = np.abs(label_M[valid] - model(vector_MD[valid]))
    value_GT, one_group_N = model(vector_MD[test])[None], np.zeros(len(valid), np.int64)
    rest = np.concatenate([train, valid])
    fold_N = np.arange(len(rest)) % FOLDS
    models = [_fit(vector_MD, label_M, rest[fold_N != fold], penalty) for fold in range(FOLDS)]
    fold_score_N = np.abs(label_M[rest] - _out_of_fold(models, vector_MD[rest], fold_N))
    fold_value_GT = np.stack([one(vector_MD[test]) for one in models])
    found = []
    for coverage in coverages:
        ends = {
            "split": conformal_intervals(value_GT, score_N, one_group_N, coverage),
            "CV+": conformal_intervals(fold_value_GT, fold_score_N, fold_N, coverage),
        }
        found += [_judged(method, coverage, pair, label_M[test]) for method, pair in ends.items()]
    return found


def _judged(method: str, coverage: float, ends: Ends, label_T: Float64) -> FoundIntervals:
    low_T, high_T = ends
    held = float(((low_T <= label_T) & (label_T <= high_T)).mean())
    return FoundIntervals(method=method, coverage=coverage, held=held, width=float((high_T - low_T).mean()))


def _fit(vector_MD: Float32, label_M: Float64, row_R: Int64, penalty: float) -> Predictor:
    model = make_pipeline(StandardScaler(), Ridge(alpha=penalty)).fit(vector_MD[row_R], label_M[row_R])

    def predict(vector_RD: Float32) -> Float64:
        value_R: Float64 = model.predict(vector_RD).astype(np.float64)
        return value_R

    return predict


def _best(vector_MD: Float32, label_M: Float64, train: Int64, valid: Int64) -> tuple[float, Predictor]:
    """Return the penalty with the least squared error of the validation rows, and its model."""
    models = {penalty: _fit(vector_MD, label_M, train, penalty) for penalty in PENALTIES}
    errors = {
        penalty: float(np.square(model(vector_MD[valid]) - label_M[valid]).mean()) for penalty, model in models.items()
    }
    best = min(errors, key=errors.__getitem__)
    return best, models[best]


def _out_of_fold(models: Sequence[Predictor], vector_ND: Float32, fold_N: Int64) -> Float64:
    value_N = np.empty(len(vector_ND))
    for fold, model in enumerate(models):
        value_N[fold_N == fold] = model(vector_ND[fold_N == fold])
    return value_N


def report(arguments: argparse.Namespace) -> str:
    """Judge all splits and return the Markdown."""
    table = read_table(arguments.data, smiles_column=arguments.smiles_column, targets=(arguments.target,))
    label_M = table.labels_ML[:, 0]
    chosen = np.flatnonzero(~np.isnan(label_M))[: arguments.rows]
    smiles = [table.smiles[row] for row in chosen.tolist()]
    vector_MD = from_pretrained(arguments.model).embed(smiles, inputs=arguments.inputs, cache=arguments.cache)
    found: list[FoundIntervals] = []
    for split in range(arguments.splits):
        order_M = np.random.default_rng([arguments.seed, split]).permutation(len(chosen))
        found += judge_split(vector_MD, label_M[chosen], order_M, arguments.coverages)
    lines = [
        "# Conformal intervals: promised and measured coverage",
        "",
        f"- {datetime.datetime.now(datetime.timezone.utc).date()}, {processor()}",
        f"- `{as_started(COMMAND)}`",
        f"- {len(chosen):,} molecules of {arguments.data.name}, {arguments.target}; {arguments.splits} random splits; "
        f"vectors of {arguments.model}, frozen, and ridge",
        "",
        *coverage_table(found),
    ]
    return "\n".join(lines) + "\n"


def coverage_table(found: Sequence[FoundIntervals]) -> list[str]:
    """Return a table with a row for each method and level, over all splits."""
    rows = []
    for method, coverage in dict.fromkeys((one.method, one.coverage) for one in found):
        same = [one for one in found if (one.method, one.coverage) == (method, coverage)]
        held = np.array([one.held for one in same])
        error = held.std(ddof=1) / np.sqrt(len(held)) if len(held) > 1 else np.nan
        verdict = "yes" if abs(held.mean() - coverage) <= TOLERANCE else "no"
        spans = f"{held.min():.1%} to {held.max():.1%}"
        width = float(np.mean([one.width for one in same]))
        mean = f"{held.mean():.1%} ± {error:.1%}" if len(held) > 1 else f"{held.mean():.1%}"
        rows.append([method, f"{coverage:.0%}", mean, spans, verdict, f"{width:.3g}"])
    header = ["method", "promised", "found, mean ± its error", "single splits", f"within {TOLERANCE:.0%}", "mean width"]
    return markdown_table(header, rows)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("data", type=Path, help="table of SMILES and labels")
    parser.add_argument("--target", required=True)
    parser.add_argument("--smiles-column")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument(
        "--inputs", choices=("2d", "3d", "2d+3d"), help="inputs for the model (default: all those of its pretraining)"
    )
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--rows", type=int, help="use only the first N rows (default: all)")
    parser.add_argument("--coverages", nargs="+", type=float, default=[0.8, 0.9, 0.95])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("data/cache"), help="of conformers")
    parser.add_argument("--output", type=Path, help="such as benchmarks/results/conformal_coverage.md")
    return parser


def main() -> None:
    """Run the benchmark and print, or write, its report."""
    arguments = build_parser().parse_args()
    deliver(report(arguments), arguments.output)


if __name__ == "__main__":
    main()
