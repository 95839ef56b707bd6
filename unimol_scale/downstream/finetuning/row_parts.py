"""Divides labelled rows into training, validation and test rows, and checks that each part has usable labels.

Energies of the elements are subtracted here, since they are fitted to the training rows.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from unimol_scale.downstream.config import FOLDS, FinetuneConfig
from unimol_scale.downstream.data.molecules import FRAGMENT_KEPT, ISOTOPES_LOST
from unimol_scale.downstream.data.skipped_rows import count_reasons
from unimol_scale.downstream.data.splits import keep_fraction, set_aside, split_rows
from unimol_scale.downstream.data.splitting.folds import split_folds
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning.atom_references import FittedReferences, fit_row_references
from unimol_scale.downstream.finetuning.labelled_rows import Rows
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import undefined
from unimol_scale.errors import ConfigError

ONE_OF_SEVERAL = ("classification", "multiclass")  # tasks of one target with classes


class _Given(TypedDict):
    """Arguments about the rows that every kind of split needs."""

    usable_M: NDArray[np.bool_]
    scaffold_smiles: Sequence[str]
    smiles: Sequence[str]
    splits: Sequence[str] | None
    fractions: Sequence[float]
    seed: int


def split_labelled(config: FinetuneConfig, rows: Rows) -> tuple[tuple[Fold | None, DataSplit], ...]:
    """Divide the usable rows, once or for each fold, and drop the training rows beyond ``label_fraction``.

    Returns:
        For a cross-validation, each fold with its split; for a single split, None with the split.

    Raises:
        ConfigError: the rows cannot be divided in this way.
    """
    given: _Given = {
        "usable_M": rows.usable_M,
        "scaffold_smiles": rows.molecules.scaffold_smiles,
        "smiles": rows.molecules.smiles,
        "splits": rows.given_splits,
        "fractions": config.fractions,
        "seed": config.seed,
    }
    splits: tuple[tuple[Fold | None, DataSplit], ...]
    try:
        if config.is_kfold:
            splits = split_folds(config.split, **given, folds=config.folds or FOLDS, repeats=config.repeats)
        else:
            parts, valid_rows, sizes = config.split_parts, config.valid_rows, config.split_sizes
            classes = rows.labels_ML[:, 0].tolist() if rows.task in ONE_OF_SEVERAL else None
            single = split_rows(
                config.split, **given, split_parts=parts, valid_rows=valid_rows, sizes=sizes, classes=classes
            )
            splits = ((None, single),)
        return tuple((fold, _kept(config, rows, split)) for fold, split in splits)
    except ConfigError as error:
        raise ConfigError(f"{config.data}: {error}") from error


def _kept(config: FinetuneConfig, rows: Rows, split: DataSplit) -> DataSplit:
    """Return the split with the requested fraction of training rows, some of them set aside for calibration."""
    split = replace(split, train=keep_fraction(split.train, config.label_fraction, config.seed))
    return set_aside(split, config.calibration_fraction, rows.molecules.smiles, config.seed)


def take_off_references(
    config: FinetuneConfig, rows: Rows, split: DataSplit
) -> tuple[Rows, dict[str, FittedReferences]]:
    """Subtract energies of the elements, fitted to the training rows, from the labels that are total energies.

    Returns:
        The rows with ``reference_ML``, and target → fitted references.

    Raises:
        ConfigError: a row has an element that no training row has, or the remaining labels do not vary.
    """
    if not set(config.atom_references) & set(rows.targets):
        return rows, {}
    try:
        references, reference_ML = fit_row_references(
            config.atom_references,
            rows.targets,
            rows.labels_ML,
            rows.molecules.smiles,
            np.flatnonzero(rows.usable_M),
            split,
        )
    except ConfigError as error:
        raise ConfigError(f"{config.data}: {error}") from error
    return replace(rows, reference_ML=reference_ML), references


def check_labels(config: FinetuneConfig, rows: Rows, split: DataSplit, metric: Metric) -> None:
    """Check that every part of the split has labels to learn from, or to compute the metric with.

    Raises:
        ConfigError: a part has no such labels; the message names target and part.
    """
    labels_RL = rows.learnt_ML[split.train]
    for target, labels_R in zip(rows.targets, labels_RL.T, strict=True):
        known = labels_R[~np.isnan(labels_R)]
        at = rows.targets.index(target)
        if not len(known):
            problem = "has no label"
        elif rows.task != "multilabel" and np.ptp(known) == 0.0:  # some of many targets may be constant
            problem = f"has only the label {rows.outputs.describe_label(at, known[0])}"
        else:
            continue
        raise ConfigError(
            f"{config.data}: {target!r} {problem} among the {len(labels_R)} training rows of the {config.split} split, "
            "so nothing can be learnt; leave this target out, or choose another --split"
        )
    if rows.weight_M is not None and not rows.weight_M[split.train].any():
        raise ConfigError(
            f"{config.data}: all {len(split.train):,} training rows of the {config.split} split (the first is row "
            f"{split.train[0] + 1}) have weight 0 in the column {config.weight_column!r}, so nothing can be learnt"
        )
    if config.baselines and not len(split.test):
        raise ConfigError(
            f"{config.data}: the {config.split} split has no test rows, which the comparison with baselines needs; "
            "turn the baselines off with --no-baselines"
        )
    for part in ("train", "valid", *(("test",) if len(split.test) else ())):
        labels_RL = rows.learnt_ML[getattr(split, part)]
        problems = undefined(metric, labels_RL, rows.targets)
        if len(problems) == len(rows.targets):
            raise ConfigError(
                f"{config.data}: the {len(labels_RL)} {part} rows of the {config.split} split have no score: "
                f"{'; '.join(problems[:3])}. Choose another --split, or provide more data"
            )


def count_rows(rows: Rows, splits: Sequence[DataSplit]) -> dict[str, int]:
    """Return the numbers of used, skipped and unlabelled rows.

    Keys: "rows" (all); "skipped REASON" for each reason why rows have no usable molecule; "unlabelled" (a molecule but
    no label); "unused" (in no part of any split); "used"; and among the used ones, "reduced_to_fragment",
    "isotopes_removed", "repeated_molecule" (further rows of the same molecule, which are used too) and "bounds"
    (censored labels).

    Args:
        rows: the rows of the data.
        splits: the splits of all folds.
    """
    molecules, usable_M = rows.molecules, rows.usable_M
    used_M = np.zeros(len(usable_M), bool)
    for split in splits:
        for row_R in split.parts.values():
            used_M[row_R] = True
    used = np.flatnonzero(used_M)
    reasons = {f"skipped {reason}": count for reason, count in count_reasons(molecules.skipped).items()}
    changes = [molecules.changes[row] for row in used.tolist()]
    return {
        "rows": len(usable_M),
        **reasons,
        "unlabelled": rows.num_unlabelled,
        "unused": int((usable_M & ~used_M).sum()),
        "used": len(used),
        "reduced_to_fragment": sum(FRAGMENT_KEPT in change for change in changes),
        "isotopes_removed": sum(ISOTOPES_LOST in change for change in changes),
        "repeated_molecule": len(used) - len(np.unique(molecules.key_M[used])),
        "bounds": 0 if rows.bounds is None else int((rows.bounds.side_ML[used] != 0.0).sum()),
    }
