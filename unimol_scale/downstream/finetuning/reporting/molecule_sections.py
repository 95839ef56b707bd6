"""Sections of the report that show molecules: the worst predictions of the test rows, and activity cliffs.

Shapes: M rows of the data, N distinct molecules, L targets, W outputs (``Outputs``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.units import counted
from unimol_scale.downstream.depiction import draw_molecule
from unimol_scale.downstream.finetuning.confidence.known_molecules import known_molecules
from unimol_scale.downstream.finetuning.confidence.worst_predictions import WorstPrediction
from unimol_scale.downstream.finetuning.folds.fold_files import read_out_of_fold
from unimol_scale.downstream.finetuning.labelled_rows import PREDICTED
from unimol_scale.downstream.finetuning.reporting.activity_cliffs import (
    LEAST_DIFFERENT,
    LEAST_SIMILAR,
    MOST_COMPARED,
    FoundCliffs,
    drawn_rows,
    find_cliffs,
)
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.store.schema import Float64

MOLECULES = "molecules"  # folder of the pictures
_SPREAD = " The number behind ± is the disagreement of the models, which is not an error bar."


def worst_section(folder: Path, outcome: FinetuneResult, worst: Sequence[WorstPrediction]) -> list[str]:
    """Draw the molecules of the worst predictions and return their section; [] without test rows.

    Args:
        folder: folder of the report; the pictures are written to a folder in it.
        outcome: results of the fine-tuning.
        worst: the worst predictions, the worst first.
    """
    if not worst:
        return []
    several, looked = len(outcome.targets) > 1, any(one.near is not None for one in worst)
    header = ["molecule", "row", *(["target"] if several else []), "measured", "predicted"]
    header += ["nearest training molecule", "its label", "similarity", "in domain"] if looked else []
    rows = []
    for rank, one in enumerate(worst, start=1):
        label, predicted = _shown_label(outcome, one.target, one.label), _shown_prediction(outcome, one)
        cells = [_picture(folder, f"worst-{rank}", one.smiles), str(one.row)]
        cells += [*([outcome.targets[one.target]] if several else []), label, predicted]
        if looked:
            cells += _near_cells(folder, outcome, one, f"worst-{rank}-nearest")
        rows.append(cells)
    by = "with the largest errors, in standard deviations of their labels" if several else "with the largest errors"
    if outcome.outputs.classes_each:
        by = "whose true class was given the lowest probability"
    return [
        "",
        "## Worst predictions",
        "",
        f"The {counted(len(rows), 'test molecule')} {by}. Look for what these molecules have in common, which the "
        "models may not have learnt. Other common reasons are wrong labels, and molecules unlike all training "
        f"molecules.{'' if all(np.isnan(one.spread) for one in worst) else _SPREAD}",
        "",
        *markdown_table(header, rows),
    ]


def cliff_section(folder: Path, outcome: FinetuneResult) -> list[str]:
    """Draw the activity cliffs among all labelled molecules and return their section; [] if there are none."""
    table = pq.read_table(folder / f"predictions-seed-{outcome.seeds[0].seed}.parquet")
    outputs, smiles = outcome.outputs, table["smiles"].to_pylist()
    labels_ML = outputs.read_labels(table)
    used_R = np.flatnonzero((~np.isnan(labels_ML)).any(1) & np.array([part is not None for part in _parts(table)]))
    known = known_molecules(smiles, outputs, labels_ML, drawn_rows(used_R), None)
    scale_L = np.ones(len(outputs.targets)) if outputs.classes_each else np.array(outcome.label_std)
    found = find_cliffs(known.smiles, known.labels_NL, scale_L)
    if not found.shown:
        return []
    tested = _tested(folder, outcome)
    several = len(outcome.targets) > 1
    rows = []
    for rank, cliff in enumerate(found.shown, start=1):
        cells = [f"{cliff.similarity:.2f}", *([outcome.targets[cliff.target]] if several else [])]
        for name, at in (("a", cliff.first), ("b", cliff.second)):
            text = known.smiles[at]
            said = _shown_label(outcome, cliff.target, float(known.labels_NL[at, cliff.target]))
            value_W = tested.get(text)
            predicted = "" if value_W is None else f"; predicted {_shown_value(outcome, cliff.target, value_W)}"
            cells += [_picture(folder, f"cliff-{rank}-{name}", text), f"{said}{predicted}"]
        rows.append(cells)
    header = ["similarity", *(["target"] if several else []), "one", "its label", "the other", "label of the other"]
    return ["", "## Activity cliffs", "", _cliff_sentence(outcome, found, len(known.smiles), len(used_R)), "",
            *markdown_table(header, rows)]  # fmt: skip


def _cliff_sentence(outcome: FinetuneResult, found: FoundCliffs, molecules: int, rows: int) -> str:
    drawn = "" if rows <= MOST_COMPARED else f" (of {MOST_COMPARED:,} rows, drawn from {rows:,})"
    differ = (
        "are of different classes"
        if outcome.outputs.classes_each
        else f"have labels at least {LEAST_DIFFERENT:g} standard deviation apart"
    )
    return (
        f"{counted(found.pairs, 'pair')} of {molecules:,} labelled molecules{drawn} {differ}, although the "
        f"Tanimoto similarity of their ECFP4 is at least {LEAST_SIMILAR:g}. The steepest are shown, each "
        "molecule once, with predictions for test molecules. A cliff may be real chemistry, or a wrong measurement or "
        "structure."
    )


def _parts(table: "pq.Table") -> list[str | None]:
    parts: list[str | None] = table["split"].to_pylist()
    return parts


def _tested(folder: Path, outcome: FinetuneResult) -> Mapping[str, Float64]:
    """Return SMILES of test rows → predictions [W], as means over the models that were not trained on them."""
    if not outcome.has_test:
        return {}
    if outcome.folds:
        found = read_out_of_fold(folder, outcome.outputs)
        _, first_R = np.unique(found.row_T, return_index=True)
        mean_RW = np.mean(found.by_repeat()[1], axis=0)
        return dict(zip((found.smiles_T[at] for at in first_R.tolist()), mean_RW, strict=True))
    tables = [pq.read_table(folder / f"predictions-seed-{seed.seed}.parquet") for seed in outcome.seeds]
    test_R = np.flatnonzero([part == "test" for part in _parts(tables[0])])
    mean_RW = np.mean([outcome.outputs.read_values(table, PREDICTED)[test_R] for table in tables], axis=0)
    smiles = tables[0]["smiles"].to_pylist()
    return {smiles[row]: value_W for row, value_W in zip(test_R.tolist(), mean_RW, strict=True)}


def _near_cells(folder: Path, outcome: FinetuneResult, one: WorstPrediction, name: str) -> list[str]:
    if one.near is None:
        return ["none", "", "", "no"]
    label = _shown_label(outcome, one.target, float(one.near.label_L[one.target]))
    domain = "yes" if one.near.in_domain else "no"
    return [_picture(folder, name, one.near.smiles), label, f"{one.near.similarity:.2f}", domain]


def _picture(folder: Path, name: str, smiles: str) -> str:
    """Draw a molecule; return Markdown that shows the picture and the SMILES."""
    draw_molecule(folder / MOLECULES / f"{name}.svg", smiles)
    return f"![]({MOLECULES}/{name}.svg) `{smiles}`"


def _shown_label(outcome: FinetuneResult, target: int, value: float) -> str:
    if np.isnan(value):
        return "none"
    if outcome.outputs.classes_each:
        return outcome.outputs.class_names(target)[int(value)]
    return f"{value:.4g}{_unit(outcome, target)}"


def _shown_prediction(outcome: FinetuneResult, one: WorstPrediction) -> str:
    if outcome.outputs.classes_each:
        name = outcome.outputs.class_names(one.target)[int(one.label)]
        probability = outcome.outputs.class_probabilities(one.target, one.prediction_W)[int(one.label)]
        predicted, true = _shown_value(outcome, one.target, one.prediction_W), f"{name}: {probability:.0%}"
        return true if predicted == true else f"{predicted}; {true}"
    spread = "" if np.isnan(one.spread) else f" ± {one.spread:.2g}"
    return f"{one.prediction_W[one.target]:.4g}{spread}{_unit(outcome, one.target)}"


def _shown_value(outcome: FinetuneResult, target: int, value_W: Float64) -> str:
    """Return the prediction of a target as text: a number, or the predicted class with its probability."""
    outputs = outcome.outputs
    if not outputs.classes_each:
        return f"{value_W[target]:.4g}{_unit(outcome, target)}"
    code = int(outputs.decide_codes(value_W[None, list(outputs.places(target))])[0])
    return f"{outputs.class_names(target)[code]}: {outputs.class_probabilities(target, value_W)[code]:.0%}"


def _unit(outcome: FinetuneResult, target: int) -> str:
    unit = outcome.units.get(outcome.targets[target], "")
    return f" {unit}" if unit else ""
