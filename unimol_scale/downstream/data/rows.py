"""From what a user gives, a table or a conformer store with labels, to rows with molecules. Imports RDKit's users.

Shapes: M rows, L targets.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from unimol_scale.downstream.config import FinetuneConfig, Task
from unimol_scale.downstream.finetuning.registry import METRICS, check_metric
from unimol_scale.downstream.data.molecule_files import is_store
from unimol_scale.downstream.data.molecules import Prepared, Skipped, prepare, prepare_store, refuse_skipped
from unimol_scale.downstream.data.labelled_tables import LabelledTable, check_task, infer_task, read_table
from unimol_scale.errors import ConfigError, SourceError, nearest
from unimol_scale.common.files import commit_file
from unimol_scale.store.schema import LABEL_PREFIX, Float64
from unimol_scale.store.shards import open_store

PREDICTED = "predicted "  # what a target's column of predictions is called before its name
SPREAD = " seed_std"  # of their standard deviation over seeds, after a target's name; it is no error bar
MOST_CLASSES = 5  # integer labels of more different values are taken for counts
SKIP_REMEDY = "Mend them, or leave them out with --skip-bad, which lists them in a table"


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Labelled molecules.

    Attributes:
        name: of the data.
        targets: [L] names.
        units: target → unit, where one is known.
        task: what the labels are.
        labels_ML: NaN where missing.
        given_splits: [M] of the split column, if one was asked for.
        molecules: where each row's molecule is, and which rows have none.
        hydrogens: whether the store of the molecules has hydrogens as atoms.
    """

    name: str
    targets: tuple[str, ...]
    units: dict[str, str]
    task: Task
    labels_ML: Float64
    given_splits: tuple[str, ...] | None
    molecules: Prepared
    hydrogens: bool

    @property
    def usable_M(self) -> "np.ndarray":
        """Bool: rows with a molecule and at least one label."""
        usable_M: np.ndarray = (self.molecules.position_M >= 0) & ~np.isnan(self.labels_ML).all(axis=1)
        return usable_M

    @property
    def num_unlabelled(self) -> int:
        """Rows with a molecule and no label."""
        return int((np.isnan(self.labels_ML).all(axis=1) & (self.molecules.position_M >= 0)).sum())

    def describe_repeated(self) -> str:
        """Return a line on rows whose molecule another usable row has too; "" where there are none."""
        position_R, labels_RL = self.molecules.position_M[self.usable_M], self.labels_ML[self.usable_M]
        distinct, place_R = np.unique(position_R, return_inverse=True)
        if len(distinct) == len(position_R):
            return ""
        low, high = (np.full((len(distinct), labels_RL.shape[1]), np.nan) for _ in range(2))
        np.fmin.at(low, place_R, labels_RL)
        np.fmax.at(high, place_R, labels_RL)
        differing = int((high > low).any(axis=1).sum())
        return (
            f"{len(position_R):,} rows are of {len(distinct):,} distinct molecules, {differing:,} of which have "
            "different labels in different rows; all rows count"
        )

    def describe_integers(self) -> str:
        """Return a line on labels that look like classes and are fitted as numbers; "" where there are none."""
        for target, labels_M in zip(self.targets, self.labels_ML.T, strict=True):
            values = np.unique(labels_M[~np.isnan(labels_M)])
            if self.task == "regression" and len(values) <= MOST_CLASSES and (values == values.round()).all():
                shown = ", ".join(f"{value:g}" for value in values)
                return f"the labels of {target!r} are {shown}, fitted as numbers; classes are 0 and 1"
        return ""


def load_rows(config: FinetuneConfig, *, geometry: bool) -> Rows:
    """Read the data, and make the conformers that it lacks.

    Args:
        config: names the data.
        geometry: whether the model sees distances; conformers are made only if it does.

    Raises:
        SourceError: the data is missing or wrong, or rows have no usable molecule and ``skip_bad`` is off.
        ConfigError: the labels are not what the task needs, or the metric or loss not of the task.
    """
    rows = _from_store(config) if is_store(config.data) else _from_table(config, geometry)
    if not rows.usable_M.any():
        raise SourceError(f"{config.data}: no row has both a usable molecule and a label")
    return rows


def refusing(file: Path, num_rows: int) -> Callable[[Sequence[Skipped]], None]:
    """Return what refuses rows of a file that have no usable molecule, for ``prepare``."""
    return functools.partial(refuse_skipped, num_rows=num_rows, where=str(file), remedy=SKIP_REMEDY)


def write_skipped(path: Path, molecules: Prepared) -> None:
    """Write the rows without a usable molecule as CSV: row (from 1, without the header), smiles, reason, detail."""
    table = pa.table(
        {
            "row": [s.row + 1 for s in molecules.skipped],
            "smiles": [s.smiles for s in molecules.skipped],
            "reason": [s.reason for s in molecules.skipped],
            "detail": [s.detail for s in molecules.skipped],
        }
    )
    commit_file(path, lambda temporary: pyarrow.csv.write_csv(table, temporary))


def _from_table(config: FinetuneConfig, geometry: bool) -> Rows:
    table = read_table(
        config.data, smiles_column=config.smiles_column, targets=config.targets, split_column=config.split_column
    )
    return Rows(
        name=table.name,
        targets=table.targets,
        units=_known(config.units, table.targets),
        task=_task(config, table),  # before minutes are spent on conformers
        labels_ML=table.labels_ML,
        given_splits=table.splits,
        molecules=prepare(
            table.smiles,
            cache=config.cache,
            geometry=geometry,
            max_atoms=config.max_atoms,
            workers=config.conformer_workers,
            refuse=None if config.skip_bad else refusing(config.data, len(table.smiles)),
            fragments=config.fragments,
            problems=table.problems,
        ),
        hydrogens=False,
    )


def _task(config: FinetuneConfig, table: LabelledTable) -> Task:
    """Return the task, and refuse what does not go with it."""
    task = config.task or infer_task(table)
    check_task(table, task)
    if config.metric is not None:
        check_metric(METRICS.entry(config.metric), task)
    if config.loss is not None and task != "regression":
        raise ConfigError(f"loss {config.loss} is of regression; the labels are of {task}, with binary cross-entropy")
    columns = ["row", "smiles", "split"]
    for target in table.targets:
        columns += [target, f"{PREDICTED}{target}", f"{target}{SPREAD}"]
    if taken := [name for name in table.targets if columns.count(name) > 1]:
        raise ConfigError(f"the target {taken[0]!r} has the name of a column of the predictions; rename it")
    return task


def _from_store(config: FinetuneConfig) -> Rows:
    manifest = open_store(config.data).manifest
    known = manifest.labels
    if not known:
        raise SourceError(f"the store at {config.data} has no labels; give a table, or build one with source.labels")
    targets = tuple(known) if config.targets == ("all",) else config.targets
    for target in targets:
        if target not in known:
            raise SourceError(f"the store at {config.data} has no label {target!r}; {nearest(target, known)}")
    if config.split_column is not None:
        raise ConfigError("split=column needs a table; a store has no column that deals its molecules")
    if config.max_atoms is not None:
        raise ConfigError("max_atoms needs a table; a store has the molecules that it was built with")
    if config.fragments == "reject":
        raise ConfigError(
            "fragments=reject needs a table; a store has no row of several fragments: give curate.fragments=reject to "
            "its build"
        )
    if config.smiles_column is not None:
        raise ConfigError("--smiles-column is of a table; a store has its molecules where it keeps them")
    molecules = prepare_store(config.data)
    columns = [molecules.split.column(f"{LABEL_PREFIX}{target}").to_numpy() for target in targets]
    labels_ML = np.stack(columns, axis=1).astype(np.float64)
    for target, labels_M in zip(targets, labels_ML.T, strict=True):
        if np.isnan(labels_M).all():
            raise SourceError(f"the store at {config.data}: the label {target!r} is missing for every molecule")
    table = LabelledTable(
        name=config.data.name, smiles=molecules.smiles, labels_ML=labels_ML, targets=targets, splits=None
    )
    return Rows(
        name=table.name,
        targets=targets,
        units=_known({**{k: v for k, v in known.items() if v}, **config.units}, targets),
        task=_task(config, table),
        labels_ML=labels_ML,
        given_splits=None,
        molecules=molecules,
        hydrogens=manifest.hydrogens,
    )


def _known(units: dict[str, str], targets: tuple[str, ...]) -> dict[str, str]:
    return {target: units[target] for target in targets if target in units}
