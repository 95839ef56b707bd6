"""Fits the baselines to the rows of a fine-tuning, stores their predictions, and reads stored ones.

Shapes: M rows, L targets, W outputs.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import unimol_scale.config as strict
from unimol_scale.common.files import commit_file
from unimol_scale.common.progress import track
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.downstream.baselines.baseline_results import TRIVIAL, BaselineScore, MemberBaselines
from unimol_scale.downstream.baselines.table_features import TableFeatures
from unimol_scale.downstream.baselines.table_models import TABLE_MODELS, TREES, choose_rows, fit_and_predict
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.data.splitting.parts import PARTS, DataSplit
from unimol_scale.downstream.labels.outputs import Outputs, predicted_labels, trivial_outputs
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import score
from unimol_scale.errors import ConfigError

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Predictions = Mapping[str, Float64]  # name of a baseline → float64 [M, W] in the scale learnt; NaN outside valid, test
_BY = " predicted "  # joins the names of a baseline and a target to the column name of the predictions
_SEED = 0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TableRows:
    """Labelled molecules for the baselines: the same rows, labels and split as for the models they are compared with.

    Attributes:
        smiles: [M] canonical SMILES; "" for a row without a molecule.
        targets: [L] names of the targets.
        task: kind of the labels.
        metric: metric that chooses the best baseline on the validation rows.
        split: the split; its training rows are those that the models were trained on.
        learnt_ML: labels after subtracting energies of the elements (``reference_ML``); NaN for missing labels.
        reference_ML: energies of the elements, which are added to the stored predictions; None: none were subtracted.
        classes: target → names of its classes.
        weight_ML: float64 weights of the labels in the loss, 1 outside the training rows; None: equal weights.
    """

    smiles: Sequence[str]
    targets: tuple[str, ...]
    task: Task
    metric: Metric
    split: DataSplit
    learnt_ML: Float64
    reference_ML: Float64 | None = None
    classes: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    weight_ML: Float64 | None = None

    @property
    def outputs(self) -> Outputs:
        """The outputs of a baseline for a molecule."""
        return Outputs(task=self.task, targets=self.targets, classes=self.classes)

    @property
    def judged(self) -> Int64:
        """Numbers of the validation and test rows, int64, ascending."""
        return np.sort(np.concatenate([self.split.valid, self.split.test]))

    @property
    def train(self) -> Int64:
        """Numbers of the training rows that any baseline sees, int64, ascending: all, up to 200,000."""
        return choose_rows(self.split.train, max(model.most_rows for model in TABLE_MODELS), _SEED)

    @property
    def used(self) -> Int64:
        """Numbers of the rows that need features, int64, ascending."""
        return np.sort(np.concatenate([self.train, self.judged]))

    def sha256(self) -> str:
        """Return a SHA-256, hexadecimal, of everything that the fits and their scores depend on."""
        digest = hashlib.sha256(repr((self.task, self.metric.name, self.targets)).encode())
        for part in PARTS:
            rows = getattr(self.split, part)
            digest.update(repr([self.smiles[row] for row in rows.tolist()]).encode())
            digest.update(rows.astype(np.int64).tobytes() + self.learnt_ML[rows].tobytes())
        if self.weight_ML is not None:
            digest.update(self.weight_ML[self.split.train].tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class RecordedBaselines:
    """Content of ``baselines-seed-N.json``, which is written last and marks the baselines as finished.

    Attributes:
        rows_sha256: ``TableRows.sha256``.
        member: the scores.
    """

    rows_sha256: str
    member: MemberBaselines


def fit_baselines(
    rows: TableRows, features: TableFeatures, seeds: tuple[int, ...], trees: int = TREES
) -> tuple[MemberBaselines, Predictions]:
    """Fit every table model and the trivial baseline to the training rows, and choose on the validation rows.

    Labels of validation rows are used only for the choice, those of test rows only for the scores.

    Args:
        rows: labelled molecules.
        features: features of these M molecules.
        seeds: seeds of the fine-tuned models that see the same rows.
        trees: number of trees of a forest.

    Returns:
        The scores, and the predictions for validation and test rows.
    """
    outputs, W = rows.outputs, len(rows.outputs.names)
    label_ML = np.where(features.readable[:, None], rows.learnt_ML, np.nan)
    train, judged = rows.train, rows.judged
    asked = judged[features.readable[judged]]
    known_L = [train[~np.isnan(label_ML[train, at])] for at in range(len(rows.targets))]
    all_L = (~np.isnan(rows.learnt_ML[rows.split.train])).sum(0).tolist()
    found: dict[str, Float64] = {}
    limits: dict[str, int] = {}
    for model in track(TABLE_MODELS, len(TABLE_MODELS), "fitting the baselines"):
        value_MW, asked_RF = np.full((len(label_ML), W), np.nan), features.dense(model.features, asked)
        for at, known in enumerate(known_L):
            if not len(known):  # RDKit can read none of the molecules with this label
                continue
            fitted = choose_rows(known, model.rows_for(len(rows.targets)), _SEED)
            data = (features.dense(model.features, fitted), label_ML[fitted, at])
            weight_N = None if rows.weight_ML is None else rows.weight_ML[fitted, at]
            predicted = fit_and_predict(model, rows.task, data, asked_RF, trees, outputs.num_classes, weight_N)
            value_MW[asked[:, None], list(outputs.places(at))] = predicted.reshape(len(asked), -1)
            if all_L[at] > model.rows_for(len(rows.targets)):
                limits[model.name] = max(len(fitted), limits.get(model.name, 0))
        found[model.name] = value_MW
    trivial_MW = np.full((len(label_ML), W), np.nan)
    trivial_W = trivial_outputs(label_ML[train], outputs.num_classes)
    trivial_MW[asked] = np.where(np.repeat([len(known) > 0 for known in known_L], W // len(known_L)), trivial_W, np.nan)
    found[TRIVIAL] = trivial_MW
    label_std = tuple(np.nanstd(rows.learnt_ML[rows.split.train], axis=0).tolist()) if rows.task == "regression" else ()
    member = MemberBaselines(
        seeds=seeds,
        chosen=_choose(rows, label_ML, found, label_std),
        scores=tuple(_scores(rows, label_ML, name, one) for name, one in found.items()),
        label_std=label_std,
        limits=limits,
        train_rows=max(all_L),
        unreadable=int((~features.readable[rows.used]).sum()),
    )
    return member, found


def _choose(rows: TableRows, label_ML: Float64, found: Predictions, label_std: Sequence[float]) -> str:
    """Return the table model with the best validation score; several targets are scaled, as when choosing epochs."""
    scale_L = np.array(label_std) if len(label_std) > 1 else np.ones(len(rows.targets))
    sign = 1.0 if rows.metric.higher_is_better else -1.0

    def worth(name: str) -> float:
        label_RL, prediction_RL = _judged(label_ML, found[name], rows.split.valid)
        value = score(rows.metric, label_RL / scale_L, prediction_RL / scale_L).value
        return -np.inf if value is None else sign * value

    return max((model.name for model in TABLE_MODELS), key=worth)


def _scores(rows: TableRows, label_ML: Float64, name: str, value_MW: Float64) -> BaselineScore:
    valid, test = (
        score(rows.metric, *_judged(label_ML, value_MW, part)).per_target
        for part in (rows.split.valid, rows.split.test)
    )
    return BaselineScore(name=name, valid_by_target=valid, test_by_target=test)


def _judged(label_ML: Float64, value_MW: Float64, part: Int64) -> tuple[Float64, Float64]:
    """Return labels (NaN where nothing was predicted) and predictions for some rows."""
    return predicted_labels(label_ML[part], value_MW[part]), value_MW[part]


def kept_baselines(
    folder: Path, rows: TableRows, features: Callable[[], TableFeatures], seeds: tuple[int, ...]
) -> tuple[MemberBaselines, Predictions]:
    """Return the stored baselines for some rows; fit and store them if the folder has none for these rows.

    Args:
        folder: folder of the fine-tuning; the files are ``baselines-seed-N.json`` and ``.parquet``, N the first seed.
        rows: labelled molecules.
        features: computes the features of the M molecules; called only if needed.
        seeds: seeds of the models that see the same rows.

    Raises:
        ConfigError: a file is damaged, or a newer version wrote it.
    """
    done, table = (folder / f"baselines-seed-{seeds[0]}.{kind}" for kind in ("json", "parquet"))
    rows_sha256 = rows.sha256()
    if done.is_file() and table.is_file():
        try:
            tree = read_json(done)
        except (OSError, NotJsonError) as error:
            raise ConfigError(f"{done} is damaged: it {error}; remove it to fit the baselines again") from error
        recorded = strict.build(RecordedBaselines, tree, strict.Origin(name=str(done), recorded=True))
        if recorded.rows_sha256 == rows_sha256:
            return dataclasses.replace(recorded.member, seeds=seeds), _read(table, rows)
    _log.info("fitting the baselines: forests and gradient boosting on fingerprints and descriptors")
    member, predictions = fit_baselines(rows, features(), seeds)
    _write(table, rows, predictions)
    write_json(done, strict.to_tree(RecordedBaselines(rows_sha256=rows_sha256, member=member)))
    return member, predictions


def baseline_columns(outputs: Sequence[str]) -> list[str]:
    """Return the column names of all baselines' predictions, given the names of the outputs."""
    return [f"{name}{_BY}{output}" for output in outputs for name in (*(m.name for m in TABLE_MODELS), TRIVIAL)]


def _write(path: Path, rows: TableRows, predictions: Predictions) -> None:
    """Write the validation and test rows with labels and predictions; missing values are null."""
    judged = rows.judged
    valid = set(rows.split.valid.tolist())
    total_ML = rows.learnt_ML if rows.reference_ML is None else rows.learnt_ML + rows.reference_ML
    columns: dict[str, Any] = {
        "row": pa.array(judged + 1),
        "smiles": pa.array([rows.smiles[row] for row in judged.tolist()]),
        "split": pa.array(["valid" if row in valid else "test" for row in judged.tolist()]),
    }
    for at, target in enumerate(rows.targets):
        columns[target] = rows.outputs.write_labels(at, total_ML[judged, at])
        taken_off = 0.0 if rows.reference_ML is None else rows.reference_ML[judged, at]
        for name, value_MW in predictions.items():
            for place in rows.outputs.places(at):
                column = f"{name}{_BY}{rows.outputs.names[place]}"
                columns[column] = pa.array(value_MW[judged, place] + taken_off, from_pandas=True)
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def _read(path: Path, rows: TableRows) -> Predictions:
    table, judged = pq.read_table(path), rows.judged
    found = {}
    for name in (*(model.name for model in TABLE_MODELS), TRIVIAL):
        value_MW = np.full((len(rows.learnt_ML), len(rows.outputs.names)), np.nan)
        value_MW[judged] = rows.outputs.read_values(table, f"{name}{_BY}")
        found[name] = value_MW if rows.reference_ML is None else value_MW - rows.reference_ML
    return found
