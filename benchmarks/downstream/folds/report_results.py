"""``results.json`` of a report: the numbers of every set, written for programs and for later reports.

A report can so be extended by other sets, starts or shares of labels on another day, without the folders of the
fine-tunings: the scores of the folds come back from here exactly, and the out-of-fold predictions from the Parquet file
beside it, as far as it keeps them (``raw_predictions``).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.downstream.folds.raw_predictions import PREDICTIONS_NAME
from benchmarks.downstream.folds.results_of_set import ChosenStart, Difference, Probe, SetResults
from unimol_scale import config as strict
from unimol_scale.common.files import commit_text
from unimol_scale.common.text.json_files import NotJsonError, read_json
from unimol_scale.downstream.comparison.fold_results import FoldResult
from unimol_scale.downstream.config import Pooling, Task
from unimol_scale.downstream.data.splitting.parts import Fold
from unimol_scale.downstream.finetuning.folds.fold_files import OutOfFold
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import Float64

RESULTS_NAME = "results.json"
Role = Literal["start", "reference", "baseline", "probe"]


@dataclass(frozen=True, kw_only=True)
class KeptData:
    """What the results of a set and share of the labels have in common.

    Attributes:
        name: of the data.
        task: kind of the labels.
        metric: of validation and test.
        targets: [L] label columns.
        units: target → unit, for targets with a known unit.
        folds: [J] of all repeats in order.
        split_sizes: [J] part → number of rows.
    """

    name: str
    task: Task
    metric: str
    targets: tuple[str, ...]
    units: dict[str, str]
    folds: tuple[Fold, ...]
    split_sizes: tuple[dict[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class KeptResult:
    """What a result is, besides its scores.

    Attributes:
        role: its place in the report.
        weights: what was fitted.
        sha256: of the weights that it began with, if there were any.
        of: for a probe, the start.
        scratch: of a start or probe, the name of the same with random weights; "" if there is none.
        is_scratch: of a start, whether its weights were random.
        pooling: of a probe.
    """

    role: Role
    weights: str
    sha256: str | None = None
    of: str = ""
    scratch: str = ""
    is_scratch: bool = False
    pooling: Pooling = "mean"


@dataclass(frozen=True, kw_only=True)
class KeptSet:
    """A set with one share of the labels.

    Attributes:
        set: its name.
        fraction: of the training labels.
        data: rows and folds.
        results: name → what it is, in the order of the report.
        fold_scores: name → score of each fold.
        rates: start → learning rate of each fold.
        made: when, where and by which command.
        made_of: result → the same, for those that are of another report than the rest.
    """

    set: str
    fraction: float
    made: str
    data: KeptData
    results: dict[str, KeptResult]
    fold_scores: dict[str, tuple[float, ...]]
    rates: dict[str, tuple[float, ...]] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)


def write_results(folder: Path, made: str, results: Sequence[SetResults]) -> None:
    """Write the numbers of all sets, without places on this machine.

    Args:
        folder: beside the report.
        made: when, where and by which command, unless a set has its own.
        results: of every set and share of labels.
    """
    tree = {"sets": [_tree(one if one.made else replace(one, made=made)) for one in results]}
    commit_text(folder / RESULTS_NAME, json.dumps(tree, indent=1) + "\n")


def _tree(one: SetResults) -> dict[str, object]:
    to_scratch = {start.result.name: one.to_scratch(start) for start in one.starts}
    to_reference = {
        f"{start.result.name} − {reference.name}": one.to_reference(start, reference.name)
        for reference in one.references
        for start in one.starts
    }
    freezing = {probe.result.name: one.to_fine_tuned(probe) for probe in one.probes}
    comparison = None if one.comparison is None else strict.to_tree(replace(one.comparison, folders=()))
    return {
        **strict.to_tree(_kept(one)),
        "comparison": comparison,
        "to_scratch": _trees(to_scratch),
        "to_references": _trees(to_reference),
        "to_fine_tuned": _trees(freezing),
    }


def _trees(differences: Mapping[str, Difference | None]) -> dict[str, object]:
    return {name: strict.to_tree(one) for name, one in differences.items() if one is not None}


def _kept(one: SetResults) -> KeptSet:
    everything = [*one.all_results, *one.baselines]
    outcome = everything[0].outcome
    sizes = {seed.fold: seed.split_sizes for seed in outcome.seeds}
    kept: dict[str, KeptResult] = {}

    def keep(role: Role, result: FoldResult, **more: Any) -> None:  # noqa: ANN401 - what only this role has
        found = result.outcome
        kept[result.name] = KeptResult(role=role, weights=found.start, sha256=found.start_sha256, **more)

    for start in one.starts:
        keep("start", start.result, scratch=start.scratch, is_scratch=start.is_scratch)
    for result in one.references:
        keep("reference", result)
    for probe in one.probes:
        keep("probe", probe.result, of=probe.start, scratch=probe.scratch, pooling=probe.pooling)
    for result in one.baselines:
        keep("baseline", result)
    return KeptSet(
        set=one.set,
        fraction=one.fraction,
        made=one.made,
        made_of=dict(one.made_of),
        data=KeptData(
            name=outcome.name,
            task=outcome.task,
            metric=outcome.metric,
            targets=outcome.targets,
            units=outcome.units,
            folds=outcome.folds,
            split_sizes=tuple(sizes[fold] for fold in outcome.folds),
        ),
        results=kept,
        fold_scores={result.name: tuple(result.scores_J.tolist()) for result in everything},
        rates={start.result.name: tuple(start.rates.values()) for start in one.starts},
    )


def read_results(folder: Path) -> list[SetResults]:
    """Return the results of an earlier report.

    The predictions are rounded as ``raw_predictions`` says, and those of the single fingerprint baselines are not kept:
    they are NaN.

    Args:
        folder: beside the report.

    Raises:
        SourceError: a file is missing or damaged.
        ConfigError: the report is of a version that did not keep enough.
    """
    path = folder / RESULTS_NAME
    try:
        trees = read_json(path)["sets"]
        table = pq.read_table(folder / PREDICTIONS_NAME)
    except (OSError, NotJsonError, KeyError, TypeError, pa.ArrowInvalid) as error:
        raise SourceError(f"{folder} does not hold the results of a report by cross-validation: {error}") from error
    known = [one.name for one in fields(KeptSet)]
    found = []
    for tree in trees:
        kept = strict.build(
            KeptSet, {name: tree[name] for name in known if name in tree}, strict.Origin(name=str(path))
        )
        mine = pc.and_(pc.equal(table["set"], kept.set), pc.equal(table["fraction"], kept.fraction))
        found.append(_results(kept, table.filter(mine), folder))
    return found


def _results(kept: KeptSet, table: pa.Table, folder: Path) -> SetResults:
    rows = _Rows(kept.data, table)

    def result(name: str) -> FoldResult:
        outcome = _outcome(kept, name)
        return FoldResult(name=name, folder=folder, outcome=outcome, rows=rows.of(name))

    named = {role: [name for name, one in kept.results.items() if one.role == role] for role in get_args(Role)}
    return SetResults(
        set=kept.set,
        fraction=kept.fraction,
        made=kept.made,
        made_of=kept.made_of,
        starts=tuple(
            ChosenStart(
                result=result(name),
                rates=dict(zip(kept.data.folds, kept.rates[name], strict=True)),
                scratch=kept.results[name].scratch,
                is_scratch=kept.results[name].is_scratch,
            )
            for name in named["start"]
        ),
        references=tuple(result(name) for name in named["reference"]),
        baselines=tuple(result(name) for name in named["baseline"]),
        probes=tuple(
            Probe(
                result=result(name),
                start=kept.results[name].of,
                scratch=kept.results[name].scratch,
                pooling=kept.results[name].pooling,
            )
            for name in named["probe"]
        ),
    )


def _outcome(kept: KeptSet, name: str) -> FinetuneResult:
    data, one, metric = kept.data, kept.results[name], METRICS[kept.data.metric]
    parts = zip(data.folds, data.split_sizes, kept.fold_scores[name], strict=True)
    seeds = tuple(
        SeedResult(
            seed=number, valid=np.nan, test=score, test_by_target=(), undefined=(), best_epoch=1, losses=(),
            valid_scores=(), fold=fold, split_sizes=sizes,
        )
        for number, (fold, sizes, score) in enumerate(parts)
    )  # fmt: skip
    return FinetuneResult(
        name=data.name,
        start=one.weights,
        start_sha256=one.sha256,
        task=data.task,
        metric=data.metric,
        higher_is_better=metric.higher_is_better,
        in_label_units=metric.in_label_units,
        targets=data.targets,
        units=data.units,
        rows=sum(data.split_sizes[0].values()),
        unlabelled=0,
        skipped=0,
        split_sizes=data.split_sizes[0],
        notes=(),
        leakage=None,
        seeds=seeds,
    )


class _Rows:
    """The tested rows of a set, sorted by repeat, fold and row, and the predictions of each result for them."""

    def __init__(self, data: KeptData, table: pa.Table) -> None:
        keys = np.stack([table[name].to_numpy().astype(np.int64) for name in ("repeat", "fold", "row")], axis=1)
        key_T3, first_T, self._place_X = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        self._target_X = np.array([data.targets.index(name) for name in table["target"].to_pylist()], np.int64)
        self._table, self._shape = table, (len(key_T3), len(data.targets))
        number = {(fold.repeat, fold.fold): at for at, fold in enumerate(data.folds)}
        smiles = table["smiles"].to_pylist()
        self._rows = OutOfFold(
            outputs=Outputs(task=data.task, targets=data.targets),
            row_T=key_T3[:, 2],
            smiles_T=tuple(smiles[at] for at in first_T.tolist()),
            repeat_T=key_T3[:, 0],
            fold_T=key_T3[:, 1],
            seed_T=np.array([number[repeat, fold] for repeat, fold, _ in key_T3.tolist()], np.int64),
            labels_TL=self._spread("label"),
            prediction_TL=np.full(self._shape, np.nan),
        )

    def of(self, name: str) -> OutOfFold:
        if name not in self._table.column_names:
            return self._rows
        return replace(self._rows, prediction_TL=self._spread(name))

    def _spread(self, name: str) -> Float64:
        """Return a column of one line per label as [T, L], NaN where there is no label."""
        values_TL = np.full(self._shape, np.nan)
        values_TL[self._place_X.ravel(), self._target_X] = self._table[name].to_numpy()
        return values_TL
