"""The tables of the benchmark by cross-validation: all starts compared on the same folds, and their raw predictions.

Shapes: T tested rows, one for each repeat and seed.
"""

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.common import processor
from unimol_scale import config as strict
from unimol_scale.common.files import commit_file, commit_text
from unimol_scale.downstream.comparison.compare import Comparison, compare_results
from unimol_scale.downstream.comparison.comparison_report import draw_intervals
from unimol_scale.downstream.comparison.fold_results import FoldResult, check_alike
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.finetuning.folds.fold_files import OutOfFold

PREDICTIONS_NAME = "out_of_fold.parquet"


@dataclass(frozen=True, kw_only=True)
class ChosenStart:
    """A start with the learning rate of each fold that is best on the validation rows of that fold.

    Attributes:
        result: scores and out-of-fold predictions of the chosen models.
        rates: fold → learning rate.
    """

    result: FoldResult
    rates: Mapping[Fold, float]


@dataclass(frozen=True, kw_only=True)
class ComparedStarts:
    """All starts on one set with one share of the labels.

    Attributes:
        set: name.
        fraction: of the training labels.
        starts: with their predictions.
        comparison: of them.
    """

    set: str
    fraction: float
    starts: tuple[ChosenStart, ...]
    comparison: Comparison

    @classmethod
    def of(cls, name: str, fraction: float, starts: Sequence[ChosenStart]) -> "ComparedStarts":
        """Compare starts.

        Raises:
            ConfigError: they are not of the same rows in the same folds.
        """
        found = [start.result for start in starts]
        check_alike(found)
        return cls(set=name, fraction=fraction, starts=tuple(starts), comparison=compare_results(found))


def best_by_validation(name: str, of_rate: Mapping[float, FoldResult]) -> ChosenStart:
    """Return, fold by fold, the models of the learning rate with the best validation score in that fold.

    A rate for all folds together would be chosen by validation rows that are tested in other folds.

    Args:
        name: of the start.
        of_rate: learning rate → its cross-validation.
    """
    first = next(iter(of_rate.values()))
    sign = 1.0 if first.outcome.prefers_high else -1.0

    def valid(rate: float, fold: Fold) -> float:
        return sign * float(np.mean([seed.valid for seed in of_rate[rate].outcome.seeds if seed.fold == fold]))

    folds = first.outcome.folds
    rates = {fold: max(of_rate, key=lambda rate: valid(rate, fold)) for fold in folds}
    seeds = tuple(seed for fold in folds for seed in of_rate[rates[fold]].outcome.seeds if seed.fold == fold)
    parts = [(of_rate[rates[fold]].rows, fold) for fold in folds]
    rows = [(one, (one.repeat_T == fold.repeat) & (one.fold_T == fold.fold)) for one, fold in parts]
    joined = OutOfFold(
        outputs=first.rows.outputs,
        row_T=np.concatenate([one.row_T[here] for one, here in rows]),
        smiles_T=tuple(one.smiles_T[at] for one, here in rows for at in np.flatnonzero(here).tolist()),
        repeat_T=np.concatenate([one.repeat_T[here] for one, here in rows]),
        fold_T=np.concatenate([one.fold_T[here] for one, here in rows]),
        seed_T=np.concatenate([one.seed_T[here] for one, here in rows]),
        labels_TL=np.concatenate([one.labels_TL[here] for one, here in rows]),
        prediction_TL=np.concatenate([one.prediction_TL[here] for one, here in rows]),
    )
    result = replace(first, name=name, outcome=replace(first.outcome, seeds=seeds), rows=joined)
    return ChosenStart(result=result, rates=rates)


def write_fold_report(path: Path, command: str, compared: Sequence[ComparedStarts]) -> None:
    """Write the tables to ``path``, and results, pictures and raw predictions into a folder of its name.

    Args:
        path: of the Markdown file.
        command: that made it.
        compared: of every set and share of labels.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# What pretraining is worth downstream, by cross-validation",
        "",
        f"- {datetime.datetime.now(datetime.timezone.utc).date()}, {processor()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}",
        f"- `{command}`",
        "- means over folds of the test scores at each model's best epoch on validation, with one and the same "
        "settings for all starts; where several learning rates were tried, each fold takes the one that is best on its "
        "validation rows",
        "- intervals: 95 %, for all pairs of a set together, corrected for the training rows that folds share; in bold "
        "what is surely better (`unimol_scale.downstream.comparison`)",
        f"- raw out-of-fold predictions: {folder.name}/{PREDICTIONS_NAME}",
        "",
    ]
    for one in compared:
        name = f"{one.set.replace(' ', '-')}-{one.fraction:g}.png"
        draw_intervals(folder / name, one.comparison)
        lines += [f"## {one.set}, {one.fraction:.0%} of the training labels", "", one.comparison.headline() + ".", ""]
        lines += [*one.comparison.result_table(), "", *_bold(one.comparison), "", f"![]({folder.name}/{name})", ""]
        lines += _rates(one)
    commit_text(path, "\n".join(lines))
    results = {"command": command, "sets": [_tree(one) for one in compared]}
    commit_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    table = pa.concat_tables([_predictions(one, start) for one in compared for start in one.starts])
    commit_file(folder / PREDICTIONS_NAME, lambda temporary: pq.write_table(table, temporary))


def _bold(comparison: Comparison) -> list[str]:
    """Return the table of pairs with those in bold that are sure."""
    lines = comparison.pair_table()
    for at, pair in enumerate(comparison.pairs, start=2):
        if pair.is_sure:
            cells = lines[at].split(" | ")
            lines[at] = " | ".join([f"| **{cells[0].removeprefix('| ')}**", *cells[1:]])
    return lines


def _rates(one: ComparedStarts) -> list[str]:
    """Return a line on the learning rates, where more than one was chosen from."""
    said = []
    for start in one.starts:
        chosen = list(start.rates.values())
        counts = [f"{rate:g} in {chosen.count(rate)} folds" for rate in sorted(set(chosen), reverse=True)]
        said.append(f"{start.result.name}: {', '.join(counts)}")
    several = len({rate for start in one.starts for rate in start.rates.values()}) > 1
    return [f"Learning rates: {'; '.join(said)}.", ""] if several else []


def _tree(one: ComparedStarts) -> dict[str, object]:
    """Return the numbers without places on this machine."""
    comparison = strict.to_tree(replace(one.comparison, folders=()))
    scores = {start.result.name: list(start.result.outcome.fold_scores) for start in one.starts}
    rates = {start.result.name: list(start.rates.values()) for start in one.starts}
    return {"set": one.set, "fraction": one.fraction, "fold_scores": scores, "rates": rates, "comparison": comparison}


def _predictions(one: ComparedStarts, start: ChosenStart) -> pa.Table:
    """Return the out-of-fold predictions of a start, of its single target."""
    rows = start.result.rows
    return pa.table(
        {
            "set": pa.array([one.set] * len(rows.row_T)),
            "fraction": pa.array(np.full(len(rows.row_T), one.fraction)),
            "start": pa.array([start.result.name] * len(rows.row_T)),
            "row": rows.row_T,
            "smiles": pa.array(rows.smiles_T, pa.string()),
            "repeat": rows.repeat_T,
            "fold": rows.fold_T,
            "seed": rows.seed_T,
            "label": rows.labels_TL[:, 0],
            "prediction": rows.prediction_TL[:, 0],
        }
    )
