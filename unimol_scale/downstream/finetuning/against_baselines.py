"""Compares the models of a fine-tuning with the baselines on the same test rows.

Shapes: M rows, R test rows, S seeds, L targets.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unimol_scale.downstream.baselines.baseline_results import TRIVIAL, BaselineResults, MemberBaselines
from unimol_scale.downstream.baselines.fitted_baselines import Predictions, TableRows, kept_baselines
from unimol_scale.downstream.baselines.paired_bootstrap import JudgedRows, drawn_scores, paired_difference
from unimol_scale.downstream.baselines.table_features import TableFeatures, table_features
from unimol_scale.downstream.data.splitting.parts import DataSplit
from unimol_scale.downstream.finetuning.labelled_rows import Rows
from unimol_scale.downstream.finetuning.results import read_predictions
from unimol_scale.downstream.labels.outputs import predicted_labels
from unimol_scale.downstream.metric import Metric
from unimol_scale.store.schema import Float64

_MODELS, _BEST = "models", "best"


@dataclass(frozen=True, kw_only=True)
class FittedMember:
    """A model of a fine-tuning, whose predictions are in the folder of the fine-tuning.

    Attributes:
        seed: seed of the model.
        rows: the data as the model learnt it.
        split: the rows that it was fitted to and scored on.
        weight_RL: weights of the training labels in the loss; None: equal weights.
    """

    seed: int
    rows: Rows
    split: DataSplit
    weight_RL: Float64 | None = None

    def _weight_ML(self) -> Float64 | None:
        if self.weight_RL is None:
            return None
        weight_ML = np.ones(self.rows.labels_ML.shape)
        weight_ML[self.split.train] = self.weight_RL
        return weight_ML

    def as_table(self, metric: Metric) -> TableRows:
        """Return the data for the baselines: the same rows, labels and split."""
        return TableRows(
            smiles=self.rows.molecules.smiles,
            targets=self.rows.targets,
            task=self.rows.task,
            metric=metric,
            split=self.split,
            learnt_ML=self.rows.learnt_ML,
            reference_ML=self.rows.reference_ML,
            classes=self.rows.classes,
            weight_ML=self._weight_ML(),
        )


def judge_baselines(
    folder: Path, members: Sequence[FittedMember], metric: Metric, *, standardised: bool
) -> BaselineResults:
    """Fit the baselines, or read stored ones, and compare the models with them.

    Models that saw the same rows, such as the seeds of one split, share their baselines.

    Args:
        folder: folder of the fine-tuning, with the predictions of every model.
        members: all models.
        metric: metric of validation and test.
        standardised: whether errors are divided by the standard deviation of the training labels before averaging over
            targets, because their units differ.

    Raises:
        ConfigError: a file is damaged, or a newer version wrote it.
    """
    groups: dict[str, list[FittedMember]] = {}
    for member in members:
        groups.setdefault(member.as_table(metric).sha256(), []).append(member)
    tables = [same[0].as_table(metric) for same in groups.values()]
    features = _computed_once(tables)
    found: list[MemberBaselines] = []
    judged: list[JudgedRows] = []
    for table, same in zip(tables, groups.values(), strict=True):
        fitted, predictions = kept_baselines(folder, table, features, tuple(one.seed for one in same))
        found.append(fitted)
        judged.append(_judged_rows(folder, same, fitted, predictions, standardised=standardised))
    whole, drawn = drawn_scores(judged, metric)
    molecules_L = _count_molecules(judged)
    best, trivial = (
        paired_difference(name, (whole[_MODELS], drawn[_MODELS]), (whole[name], drawn[name]), metric, molecules_L)
        for name in (_BEST, TRIVIAL)
    )
    return BaselineResults(members=tuple(found), best=best, trivial=trivial, test_molecules=max(molecules_L))


def _computed_once(tables: Sequence[TableRows]) -> Callable[[], TableFeatures]:
    """Return a function that computes the features of all rows that any table needs, on its first call only."""

    @functools.cache
    def features() -> TableFeatures:
        needed = set(np.concatenate([table.used for table in tables]).tolist())
        return table_features([text if row in needed else "" for row, text in enumerate(tables[0].smiles)])

    return features


def _judged_rows(
    folder: Path, same: Sequence[FittedMember], fitted: MemberBaselines, predictions: Predictions, *, standardised: bool
) -> JudgedRows:
    rows, test = same[0].rows, same[0].split.test
    taken_off = 0.0 if rows.reference_ML is None else rows.reference_ML[test]
    own_SRL = np.stack([read_predictions(folder, one.seed, rows.outputs.names)[test] - taken_off for one in same])
    best_RL = predictions[fitted.chosen][test]
    return JudgedRows(
        label_RL=predicted_labels(rows.learnt_ML[test], best_RL),
        molecule_R=rows.molecules.key_M[test],
        predictions={_MODELS: own_SRL, _BEST: best_RL[None], TRIVIAL: predictions[TRIVIAL][test][None]},
        scale_L=np.array(fitted.label_std) if standardised else np.ones(len(rows.targets)),
    )


def _count_molecules(judged: Sequence[JudgedRows]) -> tuple[int, ...]:
    """Return the number of distinct test molecules with a label, for each target."""
    molecule_R = np.concatenate([group.molecule_R for group in judged])
    known_RL = ~np.isnan(np.concatenate([group.label_RL for group in judged]))
    return tuple(len(np.unique(molecule_R[known_R])) for known_R in known_RL.T)
