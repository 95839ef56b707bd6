"""Reads labelled molecules for a fine-tuning, from a table or from a conformer store with labels.

Shapes: M rows, L targets.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from conformer_gen.sources.columns import ID_NAMES, find_column
from unimol_scale.downstream.baselines.fitted_baselines import baseline_columns
from unimol_scale.downstream.config import FinetuneConfig, Task
from unimol_scale.downstream.data.labelled_tables import LabelledTable, check_task, infer_task, read_table
from unimol_scale.downstream.data.molecule_files import is_store
from unimol_scale.downstream.data.molecules import Prepared, leaves_out_hydrogens, prepare, prepare_store
from unimol_scale.downstream.data.skipped_rows import refuser_for
from unimol_scale.downstream.data.split_files import read_split_file
from unimol_scale.downstream.data.splitting.parts import ABSENT, PARTS
from unimol_scale.downstream.label_units import conversion_factor
from unimol_scale.downstream.labels.bounds import Bounds, has_label
from unimol_scale.downstream.labels.label_columns import LabelReading, read_labels
from unimol_scale.downstream.labels.label_weights import read_weights
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.downstream.labels.transforms import check_positive
from unimol_scale.downstream.registry import METRICS, check_metric
from unimol_scale.errors import ConfigError, SourceError, nearest
from unimol_scale.store.schema import LABEL_PREFIX, Float64
from unimol_scale.store.shards import open_store

PREDICTED = "predicted "  # before the name of a target: column of its predictions
SPREAD = " seed_std"  # after the name of a target: standard deviation over seeds, not an error bar
DROPOUT_SPREAD = " dropout_std"  # after the name of a target: standard deviation over draws of dropout
CONFORMER_SPREAD = " conformer_std"  # after the name of a target: standard deviation over conformers
BOUND = " bound"  # after the name of a target: column of the bounds of censored labels
MOST_CLASSES = 5  # integer labels with more distinct values are assumed to be counts


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Labelled molecules.

    Attributes:
        name: name of the data.
        targets: [L] names of the targets.
        units: target → unit of the labels, if one is known.
        task: kind of the labels.
        labels_ML: labels, converted to the units of ``report_units``; NaN for missing ones.
        given_splits: [M] words of the split column or split file, if the user named one.
        molecules: the position of each row's molecule, and the rows that have none.
        leaves_out_hydrogens: whether hydrogens must be removed from the molecules, for a model that sees only heavy
            atoms.
        reference_ML: energies of the elements that are subtracted from the labels before learning, 0 for other targets,
            NaN for unusable rows; None: nothing is subtracted.
        classes: target → names of its classes; their indices from 0 are the labels. Targets with numbers are absent.
        bounds: bounds of censored labels, in the same units; None if there are none.
        weight_M: weights of the rows in the loss, float64; None: equal weights.
    """

    name: str
    targets: tuple[str, ...]
    units: dict[str, str]
    task: Task
    labels_ML: Float64
    given_splits: tuple[str, ...] | None
    molecules: Prepared
    leaves_out_hydrogens: bool
    reference_ML: Float64 | None = None
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    bounds: Bounds | None = None
    weight_M: Float64 | None = None

    @property
    def outputs(self) -> Outputs:
        """The outputs of a model for these labels."""
        return Outputs(task=self.task, targets=self.targets, classes=self.classes)

    @property
    def learnt_ML(self) -> Float64:
        """What the models learn and are scored on: the labels minus energies of the elements."""
        return self.labels_ML if self.reference_ML is None else self.labels_ML - self.reference_ML

    @property
    def learnt_bounds(self) -> Bounds | None:
        """The bounds as the models learn them, minus energies of the elements."""
        if self.bounds is None or self.reference_ML is None:
            return self.bounds
        return self.bounds.less(self.reference_ML)

    @property
    def labelled_M(self) -> "np.ndarray":
        """Which rows have at least one label or bound, bool [M]."""
        return has_label(self.labels_ML, self.bounds)

    @property
    def usable_M(self) -> "np.ndarray":
        """Which rows have a molecule and at least one label or bound, bool [M]."""
        usable_M: np.ndarray = (self.molecules.position_M >= 0) & self.labelled_M
        return usable_M

    @property
    def num_unlabelled(self) -> int:
        """Number of rows with a molecule but no label."""
        return int((~self.labelled_M & (self.molecules.position_M >= 0)).sum())

    def describe_repeated(self) -> str:
        """Return a line on rows that share a molecule with another usable row; "" if there are none."""
        key_R, labels_RL = self.molecules.key_M[self.usable_M], self.labels_ML[self.usable_M]
        distinct, place_R = np.unique(key_R, return_inverse=True)
        if len(distinct) == len(key_R):
            return ""
        low, high = (np.full((len(distinct), labels_RL.shape[1]), np.nan) for _ in range(2))
        np.fmin.at(low, place_R, labels_RL)
        np.fmax.at(high, place_R, labels_RL)
        differing = int((high > low).any(axis=1).sum())
        contradicting = f", {differing:,} of which have different labels in different rows" if differing else ""
        return f"{len(key_R):,} rows have {len(distinct):,} distinct molecules{contradicting}; all rows are used"

    def describe_conformers(self, wanted: int) -> str:
        """Return a line on molecules with fewer conformers than requested; "" if there are none."""
        position_R = np.unique(self.molecules.position_M[self.usable_M])
        num_conformers_R = np.minimum(self.molecules.split.sizes(position_R)[1], wanted)
        fewer = int((num_conformers_R < wanted).sum())
        if not fewer:
            return ""
        return (
            f"{fewer:,} of {len(position_R):,} molecules have fewer than the {wanted} requested conformers; "
            f"the mean is {num_conformers_R.mean():.1f}"
        )

    def describe_integers(self) -> str:
        """Return a line on labels that look like classes but are fitted as numbers; "" if there are none."""
        for target, labels_M in zip(self.targets, self.labels_ML.T, strict=True):
            values = np.unique(labels_M[~np.isnan(labels_M)])
            if self.task == "regression" and len(values) <= MOST_CLASSES and (values == values.round()).all():
                shown = ", ".join(f"{value:g}" for value in values)
                remedy = "use --task multiclass" if len(values) > 2 else "write them as 0 and 1"
                return f"the labels of {target!r} are {shown}, fitted as numbers; if they are classes, {remedy}"
        return ""


def load_rows(config: FinetuneConfig, *, geometry: bool) -> Rows:
    """Read the data, and generate missing conformers.

    Args:
        config: settings of the fine-tuning; ``hydrogens`` must not be None.
        geometry: whether the model sees distances; only then conformers are generated.

    Raises:
        SourceError: the data is missing or wrong, or rows have no usable molecule and ``skip_bad`` is False.
        ConfigError: labels, metric or loss do not fit the task.
    """
    rows = _from_store(config) if is_store(config.data) else _from_table(config, geometry)
    if not rows.usable_M.any():
        raise SourceError(f"{config.data}: no row has both a usable molecule and a label")
    return rows


def _from_table(config: FinetuneConfig, geometry: bool) -> Rows:
    table = read_table(
        config.data,
        smiles_column=config.smiles_column,
        targets=config.targets,
        split_column=None if config.split == "file" else config.split_column,
        how=_reading(config),
    )
    table = _without_weights(config, table)
    task = _task(config, table)  # checked before conformers are generated, which can take minutes
    names = [name.strip() for name in table.columns.column_names]
    _check_names(config, names)
    labels_ML, bounds, units = _converted(config, table, task, config.units)
    weight_M = None
    if config.weight_column is not None:
        at = find_column(str(config.data), names, config.weight_column, ())
        assert at is not None, "find_column raises an error if a requested column is missing"
        weights = table.columns.column(at)
        weight_M = read_weights(
            str(config.data), config.weight_column, weights, table.smiles, has_label(labels_ML, bounds)
        )
    return Rows(
        name=table.name,
        targets=table.targets,
        units=units,
        task=task,
        labels_ML=labels_ML,
        given_splits=_words(config, table),
        classes=table.classes,
        bounds=bounds,
        weight_M=weight_M,
        molecules=prepare(
            table.smiles,
            cache=config.cache,
            geometry=geometry,
            max_atoms=config.max_atoms,
            workers=config.conformer_workers,
            refuse=None if config.skip_bad else refuser_for(config.data, len(table.smiles)),
            fragments=config.fragments,
            problems=table.problems,
            hydrogens=bool(config.hydrogens),
            conformers=config.conformers,
        ),
        leaves_out_hydrogens=False,
    )


def _words(config: FinetuneConfig, table: LabelledTable) -> tuple[str, ...] | None:
    """Return the word of each row in the split column or the split file; None if neither was requested."""
    if config.split_file is None:
        return table.splits
    names = [name.strip() for name in table.columns.column_names]
    at = find_column(table.name, names, None, ID_NAMES)
    ids = None if at is None else [str(value).strip() for value in table.columns.column(at).to_pylist()]
    return read_split_file(config.split_file, ids, len(table.smiles), config.split_column, counts_rows=True)


def _check_names(config: FinetuneConfig, columns: Collection[str]) -> None:
    """Check that settings about columns name existing columns, or columns listed in ``units``.

    These need not be targets of this fine-tuning, because one settings file may serve all targets of a data set.
    """
    for key in ("report_units", "atom_references"):
        for name in getattr(config, key):
            if name not in columns and name not in config.units:
                raise ConfigError(f"{key}: {config.data} has no column {name!r}; {nearest(name, columns)}")


def _converted(
    config: FinetuneConfig, table: LabelledTable, task: Task, units: dict[str, str]
) -> tuple[Float64, Bounds | None, dict[str, str]]:
    """Return the labels and their bounds in the units to report, and these units.

    They are converted only here, so that models, scores, predictions and plots have the same unit.
    """
    units = {target: units[target] for target in table.targets if target in units}
    wanted = {target: config.report_units[target] for target in table.targets if target in config.report_units}
    if task != "regression" and (wanted or config.atom_references):
        raise ConfigError(f"report_units and atom_references apply to regression, but the task is {task}")
    labels_ML, bounds = table.labels_ML.copy(), table.bounds
    for target, unit in wanted.items():
        if target not in units:
            raise ConfigError(f"report_units: the unit of the labels of {target!r} is not known; give units.{target}=")
        try:
            at, factor = table.targets.index(target), conversion_factor(units[target], unit)
            labels_ML[:, at] *= factor
            bounds = None if bounds is None else bounds.scaled(at, factor)
        except ConfigError as error:
            raise ConfigError(f"report_units.{target}: {error}") from error
    transforms = config.transforms_of(table.targets)
    for values_ML in (labels_ML, *([] if bounds is None else [bounds.bound_ML])):
        check_positive(str(config.data), table.targets, values_ML, transforms, table.smiles)
    return labels_ML, bounds, {**units, **wanted}


def _reading(config: FinetuneConfig) -> LabelReading:
    return LabelReading(task=config.task, positive=config.positive, order=config.order, censored=config.censored)


def _without_weights(config: FinetuneConfig, table: LabelledTable) -> LabelledTable:
    """Return the table without the column of weights, which "all" may have included among the labels."""
    if config.weight_column not in table.targets:
        return table
    at = table.targets.index(config.weight_column)
    targets = tuple(name for name in table.targets if name != config.weight_column)
    return replace(table, targets=targets, labels_ML=np.delete(table.labels_ML, at, axis=1))


def _task(config: FinetuneConfig, table: LabelledTable) -> Task:
    """Return the task, and check that labels, metric, loss and target names fit it."""
    task = config.task or infer_task(table)
    check_task(table, task)
    if config.metric is not None:
        check_metric(METRICS.entry(config.metric), task)
    if config.loss is not None and task != "regression":
        raise ConfigError(f"loss {config.loss} applies to regression; task {task} uses the cross-entropy")
    if config.conformal == "normalised" and task != "regression":
        raise ConfigError(f"conformal=normalised applies to regression, but the task is {task}")
    config.check_task(task, table.targets)
    outputs = Outputs(task=task, targets=table.targets, classes=table.classes)
    columns = ["row", "smiles", "split", *table.targets, *(f"{PREDICTED}{target}" for target in table.classes)]
    for name in outputs.names:
        columns += [f"{PREDICTED}{name}", f"{name}{SPREAD}"]
        columns += [f"{name}{CONFORMER_SPREAD}"] if config.conformers > 1 else []
        columns += [f"{name}{BOUND}"] if config.censored else []
    columns += baseline_columns(outputs.names) if config.baselines else []
    if taken := [name for name in table.targets if columns.count(name) > 1]:
        raise ConfigError(f"the target {taken[0]!r} has the name of a column of the predictions; rename it")
    return task


def _from_store(config: FinetuneConfig) -> Rows:
    manifest = open_store(config.data).manifest
    known = manifest.labels
    if not known:
        raise SourceError(f"the store at {config.data} has no labels; give a table, or build one with source.labels")
    column = None if config.split == "file" else config.split_column
    others = [name for name in (column, config.weight_column) if name is not None]
    targets = tuple(name for name in known if name not in others) if config.targets == ("all",) else config.targets
    for name in (*targets, *others):
        if name not in known:
            raise SourceError(f"the store at {config.data} has no label {name!r}; {nearest(name, known)}")
    if config.max_atoms is not None:
        raise ConfigError("max_atoms needs a table; a store has the molecules that it was built with")
    if config.fragments == "reject":
        raise ConfigError(
            "fragments=reject needs a table; the molecules of a store have a single fragment: set "
            "curate.fragments=reject in its build"
        )
    if config.smiles_column is not None:
        raise ConfigError("--smiles-column applies to tables, not to a store")
    leaves_out = leaves_out_hydrogens(manifest.hydrogens, bool(config.hydrogens), str(config.data))
    molecules = prepare_store(config.data)
    how = _reading(config)
    where = f"the store at {config.data}"
    read = {
        target: read_labels(where, target, molecules.split.column(f"{LABEL_PREFIX}{target}"), molecules.smiles, how)
        for target in targets
    }
    labels_ML = np.stack([one.value_M for one in read.values()], axis=1).astype(np.float64)
    classes = {target: one.classes for target, one in read.items() if one.classes}
    for target, labels_M in zip(targets, labels_ML.T, strict=True):
        if np.isnan(labels_M).all():
            raise SourceError(f"the store at {config.data}: the label {target!r} is missing for every molecule")
    splits = None
    if column is not None:
        words_of = _parts_of if config.split == "column" else _numbers_of
        splits = words_of(molecules.split.column(f"{LABEL_PREFIX}{column}").to_numpy())
    if config.split_file is not None:
        ids = molecules.split.ids(np.arange(len(labels_ML)))
        splits = read_split_file(config.split_file, ids, len(ids), config.split_column, counts_rows=False)
    table = LabelledTable(
        name=config.data.name,
        smiles=molecules.smiles,
        labels_ML=labels_ML,
        targets=targets,
        splits=splits,
        classes=classes,
    )
    task = _task(config, table)
    _check_names(config, known)
    labels_ML, _, units = _converted(config, table, task, {**{k: v for k, v in known.items() if v}, **config.units})
    weight_M = None
    if config.weight_column is not None:
        weights = molecules.split.column(f"{LABEL_PREFIX}{config.weight_column}")
        weight_M = read_weights(where, config.weight_column, weights, molecules.smiles, has_label(labels_ML, None))
    return Rows(
        name=table.name,
        targets=targets,
        units=units,
        task=task,
        labels_ML=labels_ML,
        given_splits=table.splits,
        classes=classes,
        weight_M=weight_M,
        molecules=molecules,
        leaves_out_hydrogens=leaves_out,
    )


def _parts_of(codes_M: Float64) -> tuple[str, ...]:
    """Return the parts encoded by a label of a store: 0 train, 1 valid, 2 test."""
    part_of = dict(enumerate(PARTS))
    return tuple(part_of.get(code, f"{code:g}") for code in codes_M.tolist())


def _numbers_of(values_M: Float64) -> tuple[str, ...]:
    """Return numbers (folds or times) as a table would contain them; missing ones become ``ABSENT``."""
    return tuple(ABSENT if np.isnan(value) else repr(value).removesuffix(".0") for value in values_M.tolist())
