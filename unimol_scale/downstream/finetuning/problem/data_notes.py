"""Notes on the data for readers of the scores: reduced or missing molecules, and molecules seen in pretraining."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unimol_scale.data.hydrogens import heavy_counts
from unimol_scale.downstream.data.inputs import ChosenInputs
from unimol_scale.downstream.data.leakage import Leakage, describe_overlap, report_leakage
from unimol_scale.downstream.data.pretraining_data import describe_larger
from unimol_scale.downstream.data.sdf_table import describe_geometry
from unimol_scale.downstream.finetuning.labelled_rows import Rows
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.downstream.labels.learning_notes import describe_learning
from unimol_scale.downstream.labels.outputs import absent_classes, describe_classes
from unimol_scale.store.schema import Float64, Int32, Int64


def pretraining_overlap(problems: Sequence[SeedProblem]) -> tuple[Path | None, str | None]:
    """Return the pretraining store, and a line on the test molecules that it contains; None for what is unknown."""
    problem = problems[0]
    pretrained_on = problem.start.pretrained_on
    store = problem.config.pretraining_store or (pretrained_on.path if pretrained_on else None)
    if not len(tested_rows(problems)):
        return store, None
    if store is not None:
        return store, _leakage(store, problem.rows, tested_rows(problems)).describe()
    if pretrained_on is not None:
        missing = pretrained_on.missing
        return None, f"leakage: not checked, because {missing}; give the store as pretraining_store=DIR"
    return None, None


def tested_rows(problems: Sequence[SeedProblem]) -> Int64:
    """Return the rows that are tested in any fold, int64, ascending."""
    return np.unique(np.concatenate([problem.split.test for problem in problems]))


def reference_notes(problem: SeedProblem) -> list[str]:
    """Return lines on the energies of the elements; in a cross-validation, those of the first fold."""
    said = [one.describe(target, problem.rows.units.get(target, "")) for target, one in problem.references.items()]
    return (
        said if problem.fold is None else [f"each fold fits its own energies; {problem.fold}: {line}" for line in said]
    )


def _overlap(problem: SeedProblem) -> str:
    """Return a line on test molecules and scaffolds that are also in training; in a cross-validation, in this fold."""
    molecules, split = problem.rows.molecules, problem.split
    line = describe_overlap(
        split.test,
        np.concatenate([split.train, split.valid]),
        key_M=molecules.key_M,
        smiles=molecules.smiles,
        scaffold_smiles=molecules.scaffold_smiles,
    )
    return line if problem.fold is None or not line else f"{problem.fold}: {line}"


def data_notes(problems: Sequence[SeedProblem], chosen: ChosenInputs, store: Path | None) -> tuple[str, ...]:
    """Return notes on the data for the user; ``store`` is the pretraining store, None for random weights."""
    problem = problems[0]
    config, rows = problem.config, problem.rows
    molecules = rows.molecules
    overlap = _overlap(problem)
    larger = "" if store is None else describe_larger(store, *_num_atoms(rows))
    reduced = molecules.describe_changes()
    geometry = describe_geometry(config.data, sees_3d=chosen.inputs != "2d")
    few = rows.describe_conformers(config.conformers)
    said = (chosen.warning, reduced, rows.describe_repeated(), overlap, larger, geometry, few)
    notes = [*describe_classes(rows.outputs, rows.labels_ML[rows.usable_M]), *(note for note in said if note)]
    if config.task is None and (classes := rows.describe_integers()):
        notes.append(classes)
    one_class = [target for at, target in enumerate(rows.targets) if any(_has_one_class(each, at) for each in problems)]
    if one_class:
        where = "" if problem.fold is None else " of at least one fold"
        notes.append(f"targets with only one class among the training rows{where}: {', '.join(one_class)}")
    notes += describe_learning(config, rows.outputs, _train_weights(problem), str(problem.fold or ""))
    if absent := absent_classes(rows.outputs, [rows.labels_ML[each.split.train] for each in problems]):
        notes.append(f"classes without training rows, which are never predicted: {', '.join(absent)}")
    return tuple(notes)


def _has_one_class(problem: SeedProblem, target: int) -> bool:
    labels_R = problem.rows.labels_ML[problem.split.train, target]
    return len(np.unique(labels_R[~np.isnan(labels_R)])) == 1


def _train_weights(problem: SeedProblem) -> Float64 | None:
    return None if problem.rows.weight_M is None else problem.rows.weight_M[problem.split.train]


def _num_atoms(rows: Rows) -> tuple[Int32, Int32 | None]:
    """Return the numbers of heavy atoms of all labelled molecules, int32, and of all atoms if hydrogens are stored."""
    split, position_R = rows.molecules.split, np.unique(rows.molecules.position_M[rows.usable_M])
    num_atoms_R = split.sizes(position_R)[0]
    if not rows.molecules.hydrogens:
        return num_atoms_R, None
    return heavy_counts(split.gather(position_R)), num_atoms_R


def _leakage(store: Path, rows: Rows, test: Int64) -> Leakage:
    molecules = rows.molecules
    return report_leakage(
        store,
        key_M=molecules.key_M[test],
        scaffold_M=molecules.scaffold_M[test],
        smiles=[molecules.smiles[row] for row in test.tolist()],
        scaffold_smiles=[molecules.scaffold_smiles[row] for row in test.tolist()],
    )
