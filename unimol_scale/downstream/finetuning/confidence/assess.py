"""Measures the uncertainty of predictions on the test rows, and stores what ``predict`` needs to report it.

Shapes: M rows of the data, R test rows, S models, L targets, W outputs (``Outputs``), D channels.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import mannwhitneyu

from unimol_scale.downstream.baselines.paired_bootstrap import JudgedRows, drawn_scores
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.splitting.parts import DataSplit
from unimol_scale.downstream.finetuning.cautions import describe_spread
from unimol_scale.downstream.finetuning.confidence.calibration_file import (
    Calibration,
    ConformalRows,
    calibrate_on_part,
    calibrate_out_of_fold,
    conformal_rows,
    fold_of_rows,
    missing_rows,
    scarce_rows,
    write_calibration,
)
from unimol_scale.downstream.finetuning.confidence.known_molecules import (
    MOST_WITH_VECTORS,
    Float32,
    KnownMolecules,
    NearestMolecule,
    known_molecules,
    neighbours,
    write_known,
)
from unimol_scale.downstream.finetuning.confidence.worst_predictions import (
    WorstPrediction,
    worst_places,
    worst_predictions,
    wrongness,
)
from unimol_scale.downstream.finetuning.labelled_rows import Rows
from unimol_scale.downstream.finetuning.results import FinetuneResult, read_predictions
from unimol_scale.downstream.labels.confusion_matrix import true_class_probabilities
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.uncertainty.confidence_results import (
    ConfidenceResults,
    ConformalCheck,
    DomainCheck,
    TargetCoverage,
)
from unimol_scale.downstream.uncertainty.domain import judged_places
from unimol_scale.downstream.uncertainty.found_coverage import FoundCoverage
from unimol_scale.downstream.uncertainty.rules import CalibratedOn, ConformalRule, DomainRule
from unimol_scale.store.schema import Float64, Int64

_DRAWS = 500
_ENDS = (0.025, 0.975)  # ends of a 95 % interval, as quantiles
_FEW = 5  # errors inside and outside the domain are compared only with at least this many rows on each side

Vectors = Callable[[Int64], Float32]


@dataclass(frozen=True, kw_only=True)
class FinishedModels:
    """Models of a fine-tuning whose predictions are in its folder.

    Attributes:
        config: settings of the fine-tuning.
        outcome: scores of the models.
        rows: the data as they learnt it; for a cross-validation, in its first fold.
        splits: the split of each fold, or the single split.
        metric: metric of the scores.
        vectors: row numbers from 0 → vectors of the first model, float32 [R, D].
    """

    config: FinetuneConfig
    outcome: FinetuneResult
    rows: Rows
    splits: Sequence[DataSplit]
    metric: Metric
    vectors: Vectors

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.config.folder


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """The measured uncertainty, and the rules to store in ``finetuned.json``.

    Attributes:
        results: measurements on the test rows.
        conformal: how intervals or sets are made.
        domain: where the domain ends; None if it was turned off.
        worst: the worst predicted test rows, for the report.
    """

    results: ConfidenceResults
    conformal: ConformalRule
    domain: DomainRule | None
    worst: tuple[WorstPrediction, ...]


def assess(models: FinishedModels) -> Assessment:
    """Calibrate on rows that the models were not fitted to, measure on the test rows, and write the files for both.

    Without test rows nothing is measured.

    Raises:
        ConfigError: a file of the folder is damaged.
    """
    config, outcome = models.config, models.outcome
    test = _tested_rows(models)
    has_interval = outcome.has_test and not outcome.folds
    low, high, standardised = _score_interval(models) if has_interval else (None, None, False)
    check, conformal = _conformal(models, test)
    smiles = [models.rows.molecules.smiles[row - 1] for row in test.row_N.tolist()]
    worst = worst_places(wrongness(outcome, test), smiles)
    domain_check, domain = None, None
    near: dict[int, NearestMolecule] = {}
    if config.domain:
        domain_check, domain, near = _domain(models, test, {int(test.row_N[row]) for row, _ in worst})
    results = ConfidenceResults(
        score_low=low,
        score_high=high,
        score_standardised=standardised,
        spread=_describe_spread(outcome, test),
        conformal=check,
        domain=domain_check,
    )
    shown = worst_predictions(outcome, test, smiles, worst, near)
    return Assessment(results=results, conformal=conformal, domain=domain, worst=shown)


def asks_anew(found: ConfidenceResults | None, config: FinetuneConfig) -> bool:
    """Return whether a finished fine-tuning must be assessed again because the settings differ.

    Results of versions that did not assess uncertainty are left unchanged.
    """
    if found is None:
        return False
    check = found.conformal
    other = (check.coverage, check.kind) != (config.coverage, config.conformal)
    return other or (found.domain is None) == config.domain


def _tested_rows(models: FinishedModels) -> Calibration:
    """Return the test rows, predicted by models that had not seen them."""
    outcome = models.outcome
    if outcome.folds:
        return calibrate_out_of_fold(models.folder, outcome.seeds, outcome.outputs)
    return calibrate_on_part(models.folder, outcome.seeds, outcome.outputs, models.splits[0].test)


def _describe_spread(outcome: FinetuneResult, test: Calibration) -> str:
    """Return in words whether the spread of the seeds of a single split follows the error; "" if there is no spread.

    With several classes, spread and error are those of the probability of the true class.
    """
    if outcome.folds or len(outcome.seeds) < 2 or not outcome.has_test:
        return ""
    if not outcome.outputs.num_classes:
        return describe_spread(test.spread_NW, np.abs(test.prediction_NW - test.labels_NL))
    of_true = np.stack([test.prediction_NW, test.spread_NW])
    probability_NL, spread_NL = true_class_probabilities(test.labels_NL, of_true)
    return describe_spread(spread_NL, 1.0 - probability_NL)


def _score_interval(models: FinishedModels) -> tuple[float | None, float | None, bool]:
    """Return the ends of the 95 % interval of the test score of a single split, and whether it is standardised."""
    outcome, rows, test = models.outcome, models.rows, models.splits[0].test
    standardised = not outcome.has_mean
    taken_off = 0.0 if rows.reference_ML is None else rows.reference_ML[test]
    judged = JudgedRows(
        label_RL=rows.learnt_ML[test],
        molecule_R=rows.molecules.key_M[test],
        predictions={"models": _values(models, test) - taken_off},
        scale_L=np.array(outcome.label_std) if standardised else np.ones(len(outcome.targets)),
    )
    whole, drawn = drawn_scores([judged], models.metric, _DRAWS)
    defined_L = ~np.isnan(whole["models"][0])
    drawn_D = drawn["models"][:, defined_L]
    drawn_D = drawn_D[~np.isnan(drawn_D).all(axis=1)]
    if not drawn_D.size:
        return None, None, standardised
    low, high = np.quantile(np.nanmean(drawn_D, axis=1), _ENDS)
    return float(low), float(high), standardised


def _conformal(models: FinishedModels, test: Calibration) -> tuple[ConformalCheck, ConformalRule]:
    """Write the calibration rows; return how the intervals perform on the test rows, and how they are made."""
    config, outcome, split = models.config, models.outcome, models.splits[0]
    rows: CalibratedOn = "out-of-fold" if outcome.folds else "calibration" if len(split.calibration) else "validation"
    calibration = test
    if not outcome.folds:
        part = split.calibration if len(split.calibration) else split.valid
        calibration = calibrate_on_part(models.folder, outcome.seeds, outcome.outputs, part)
    floor_L: tuple[float, ...] = ()
    if config.conformal == "normalised":
        train = calibrate_on_part(models.folder, outcome.seeds, outcome.outputs, split.train)
        floor_L = tuple(train.spread_NW.mean(0).tolist())
    rule = ConformalRule(
        sha256=write_calibration(models.folder, outcome.outputs, calibration),
        rows=rows,
        coverage=config.coverage,
        kind="normalised" if floor_L else "plain",
        floor_L=floor_L,
    )
    if outcome.folds:
        found = _others_of_each_group(test, outcome, config.coverage)
    else:
        value_SRW = _values(models, split.test)
        found = [(test, conformal_rows(calibration, value_SRW, outcome.outputs, config.coverage, floor_L))]
    targets = tuple(
        _target_coverage(found, at, calibration.labels_NL[:, at], outcome, config.coverage)
        for at in range(len(outcome.targets))
    )
    return ConformalCheck(coverage=config.coverage, kind=rule.kind, rows=rows, targets=targets), rule


def _values(models: FinishedModels, row_R: Int64) -> Float64:
    """Return the predictions of every model of a single split, [S, R, W]."""
    names, seeds = models.outcome.outputs.names, models.outcome.seeds
    return np.stack([read_predictions(models.folder, seed.seed, names)[row_R] for seed in seeds])


def _others_of_each_group(
    test: Calibration, outcome: FinetuneResult, coverage: float
) -> list[tuple[Calibration, ConformalRows]]:
    """Return the rows of each fold with intervals from the residuals of all other folds.

    The intervals for a new molecule (CV+) cannot be computed for these rows, because all models except those of their
    own fold have seen them. Therefore the prediction comes from their own fold, and the residuals from all other folds.
    """
    found = []
    for group in range(len(test.models)):
        own_N = test.group_N == group
        own, others = test.take(own_N), test.take(~own_N)
        found.append((own, conformal_rows(others, own.prediction_NW[None], outcome.outputs, coverage)))
    return found


def _target_coverage(
    found: Sequence[tuple[Calibration, ConformalRows]],
    target: int,
    label_N: Float64,
    outcome: FinetuneResult,
    coverage: float,
) -> TargetCoverage:
    """Return the coverage of the intervals or sets of a target; ``label_N`` are the labels of all calibration rows."""
    num_classes = outcome.outputs.classes_each
    calibration_rows, missing = scarce_rows(label_N, num_classes), missing_rows(label_N, num_classes, coverage)
    held, widths, singles = [], [], []
    for rows, intervals in found:
        label_R = rows.labels_NL[:, target]
        known_R = ~np.isnan(label_R)
        if intervals.missing_L[target] or not known_R.any():
            continue
        if intervals.in_set_RLC is not None:
            in_set_RC = intervals.in_set_RLC[known_R, target]
            held.append(np.take_along_axis(in_set_RC, label_R[known_R].astype(np.int64)[:, None], axis=1)[:, 0])
            widths.append(in_set_RC.sum(1).astype(np.float64))
            singles.append(in_set_RC.sum(1) == 1)
            continue
        assert intervals.low_RL is not None, "intervals"
        assert intervals.high_RL is not None, "intervals"
        low_R, high_R = intervals.low_RL[known_R, target], intervals.high_RL[known_R, target]
        held.append((low_R <= label_R[known_R]) & (label_R[known_R] <= high_R))
        widths.append(high_R - low_R)
    if not held:
        return TargetCoverage(calibration_rows=calibration_rows, missing=missing)
    return TargetCoverage(
        calibration_rows=calibration_rows,
        missing=missing,
        found=FoundCoverage.of(np.concatenate(held)),
        width=float(np.concatenate(widths).mean()),
        single=float(np.concatenate(singles).mean()) if singles else None,
    )


def _domain(
    models: FinishedModels, test: Calibration, asked: Collection[int]
) -> tuple[DomainCheck, DomainRule, dict[int, NearestMolecule]]:
    """Write the training molecules, and compare the test rows with them.

    Returns:
        The errors of the test rows inside and outside the domain; where the domain ends; and, for the rows in
        ``asked`` (numbered from 1), row → nearest training molecule.
    """
    outcome, rows = models.outcome, models.rows
    smiles = rows.molecules.smiles
    train = np.unique(np.concatenate([split.train for split in models.splits]))
    has_value = np.flatnonzero((~np.isnan(test.labels_NL)).any(1))  # other rows, such as bounds, have no known error
    test = test.take(has_value)
    is_judged_R = np.zeros(len(test.row_N), bool)
    is_judged_R[judged_places(len(test.row_N), len(train), len(test.row_N))] = True
    looked_R = is_judged_R | np.isin(test.row_N, list(asked))
    tested, test, is_judged_R = len(test.row_N), test.take(looked_R), is_judged_R[looked_R]
    test_R = test.row_N - 1
    with_vectors = len(train) <= MOST_WITH_VECTORS
    needed = np.unique(np.concatenate([train, test_R]))
    vector_ND = models.vectors(needed) if with_vectors else None

    def vectors(row_R: Int64) -> Float32:
        assert vector_ND is not None, "asked for only then"
        return vector_ND[np.searchsorted(needed, row_R)]

    known = known_molecules(smiles, rows.outputs, rows.labels_ML, train, vectors if with_vectors else None)
    rule = write_known(models.folder, outcome.targets, known)
    inside_R = np.zeros(len(test_R), bool)
    nearest: dict[int, NearestMolecule] = {}
    for place, unseen in _unseen(models, test_R, known) if len(test_R) else []:
        row_R = test_R[place]
        vector_RD = vectors(row_R) if with_vectors else None
        near = neighbours(unseen, rule, [smiles[row] for row in row_R.tolist()], vector_RD)
        inside_R[place] = near.in_domain_R
        found = {row + 1: near.nearest(at) for at, row in enumerate(row_R.tolist()) if row + 1 in asked}
        nearest |= {number: one for number, one in found.items() if one is not None}
    check = _compare(outcome, test.take(is_judged_R), inside_R[is_judged_R], with_vectors=with_vectors)
    return replace(check, test_rows=tested), rule, nearest


def _unseen(models: FinishedModels, test_R: Int64, known: KnownMolecules) -> list[tuple[Int64, KnownMolecules]]:
    """Return positions of test rows, and the known molecules to compare them with, which exclude their own.

    In a cross-validation every molecule is a training molecule, so each fold is compared with the other folds.
    """
    outcome, smiles = models.outcome, models.rows.molecules.smiles
    if not outcome.folds:
        return [(np.arange(len(test_R)), known)]
    found = []
    for fold in outcome.folds:
        if fold.repeat == 1:
            fold_R = fold_of_rows(models.folder, outcome.outputs, fold)
            row_R = np.intersect1d(fold_R, test_R)
            own = {smiles[row] for row in fold_R.tolist()}
            is_own_N = np.array([text in own for text in known.smiles])
            found.append((np.searchsorted(test_R, row_R), known.without(is_own_N)))
    return found


def _compare(outcome: FinetuneResult, test: Calibration, inside_R: "np.ndarray", *, with_vectors: bool) -> DomainCheck:
    error_RL, in_units = _errors(outcome, test)
    there_RL = ~np.isnan(error_RL)
    error_R = np.where(there_RL, error_RL, 0.0).sum(1) / np.maximum(there_RL.sum(1), 1)
    inside, outside = error_R[inside_R], error_R[~inside_R]
    larger_p = None
    if min(len(inside), len(outside)) >= _FEW and np.ptp(error_R) > 0.0:
        larger_p = float(mannwhitneyu(outside, inside, alternative="greater").pvalue)
    return DomainCheck(
        inside=len(inside),
        outside=len(outside),
        inside_error=float(inside.mean()) if len(inside) else None,
        outside_error=float(outside.mean()) if len(outside) else None,
        in_units=in_units,
        larger_p=larger_p,
        with_vectors=with_vectors,
        test_rows=len(inside_R),
    )


def _errors(outcome: FinetuneResult, test: Calibration) -> tuple[Float64, bool]:
    """Return errors [R, L], NaN without a label, and whether they are in the common unit of all labels."""
    outputs = outcome.outputs
    if outputs.classes_each:
        each = [outputs.decide_codes(test.prediction_NW[:, outputs.places(at)]) for at in range(len(outputs.targets))]
        wrong_RL = (np.stack(each, axis=1) != test.labels_NL).astype(np.float64)
        return np.where(np.isnan(test.labels_NL), np.nan, wrong_RL), True
    error_RL = np.abs(test.prediction_NW - test.labels_NL)
    one_unit = len({outcome.units.get(target, "") for target in outcome.targets}) == 1 and (
        len(outcome.targets) == 1 or bool(outcome.units)
    )
    return (error_RL, True) if one_unit else (error_RL / np.array(outcome.label_std), False)
