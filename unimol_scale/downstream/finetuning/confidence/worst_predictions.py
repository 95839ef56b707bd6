"""Finds the worst predicted test rows. Shapes: N test rows, L targets, W outputs (``Outputs``)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from unimol_scale.downstream.finetuning.confidence.calibration_file import Calibration
from unimol_scale.downstream.finetuning.confidence.known_molecules import NearestMolecule
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.store.schema import Float64

MOST_SHOWN = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class WorstPrediction:
    """A test row, its worst predicted target, and the nearest training molecule.

    Attributes:
        row: row of the data, from 1.
        smiles: canonical SMILES.
        target: index of the target.
        label: label of the target.
        prediction_W: all outputs, from models that had not seen the row.
        spread: standard deviation of the target's prediction over models; NaN for a single model, or for classes.
        near: the nearest training molecule by fingerprint; None if there is none, or it was not requested.
    """

    row: int
    smiles: str
    target: int
    label: float
    prediction_W: Float64
    spread: float
    near: NearestMolecule | None


def wrongness(outcome: FinetuneResult, test: Calibration) -> Float64:
    """Return errors that are comparable between targets, float64 [N, L]; NaN without a label.

    For a regression it is the absolute error in standard deviations of the training labels; for classes, one minus the
    probability of the true class.
    """
    outputs, labels_NL = outcome.outputs, test.labels_NL
    wrong_NL: Float64
    if outcome.task == "regression":
        wrong_NL = np.abs(test.prediction_NW - labels_NL) / np.array(outcome.label_std)
        return wrong_NL
    wrong_NL = np.full(labels_NL.shape, np.nan)
    for at in range(len(outputs.targets)):
        known_N = np.flatnonzero(~np.isnan(labels_NL[:, at]))
        probability_NC = outputs.class_probabilities(at, test.prediction_NW[known_N])
        code_N = labels_NL[known_N, at].astype(np.int64)
        wrong_NL[known_N, at] = 1.0 - probability_NC[np.arange(len(known_N)), code_N]
    return wrong_NL


def worst_places(wrong_NL: Float64, smiles: Sequence[str]) -> list[tuple[int, int]]:
    """Return (row, target) of the worst predictions, the worst first; each molecule occurs once.

    Args:
        wrong_NL: return value of ``wrongness``.
        smiles: [N] SMILES of the rows.
    """
    found: dict[str, tuple[int, int]] = {}
    order = np.argsort(np.where(np.isnan(wrong_NL), -np.inf, wrong_NL), axis=None, kind="stable")[::-1]
    for flat in order.tolist():
        row, target = divmod(flat, wrong_NL.shape[1])
        if np.isnan(wrong_NL[row, target]) or len(found) == MOST_SHOWN:
            break
        found.setdefault(smiles[row], (row, target))
    return list(found.values())


def worst_predictions(
    outcome: FinetuneResult,
    test: Calibration,
    smiles: Sequence[str],
    places: Sequence[tuple[int, int]],
    near: Mapping[int, NearestMolecule],
) -> tuple[WorstPrediction, ...]:
    """Return the predictions at the given places.

    Args:
        outcome: results of the fine-tuning.
        test: its test rows.
        smiles: [N] SMILES of these rows.
        places: return value of ``worst_places``.
        near: row of the data, from 1 → nearest training molecule.
    """
    return tuple(
        WorstPrediction(
            row=int(test.row_N[row]),
            smiles=smiles[row],
            target=target,
            label=float(test.labels_NL[row, target]),
            prediction_W=test.prediction_NW[row],
            spread=np.nan if outcome.outputs.classes_each else float(test.spread_NW[row, target]),
            near=near.get(int(test.row_N[row])),
        )
        for row, target in places
    )
