"""Computes how far predictions can be trusted: intervals or sets, nearest training molecules, the domain.

Shapes: R rows, L targets, W outputs (``Outputs``), S models, D channels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.finetuning.cautions import first_names
from unimol_scale.downstream.finetuning.confidence.calibration_file import (
    CALIBRATION_NAME,
    Calibration,
    ConformalRows,
    conformal_rows,
    read_calibration,
)
from unimol_scale.downstream.finetuning.confidence.known_molecules import (
    DOMAIN_NAME,
    KnownMolecules,
    Neighbours,
    neighbours,
    read_known,
)
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.downstream.uncertainty.conformal import rows_needed
from unimol_scale.downstream.uncertainty.rules import check_coverage
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float32, Float64, Int64

LOW, HIGH, CLASSES = "low", "high", "classes"  # endings of column names, after the name of a target
NEAREST, LABEL = "nearest_training_smiles", "nearest_training_label"
SIMILARITY, VECTOR_SIMILARITY, IN_DOMAIN = "similarity", "vector_similarity", "in_domain"
_EARLIER = (
    "no intervals and no nearest training molecules, because an earlier version fine-tuned this model; fine-tune again "
    "to have them"
)

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Belief:
    """What is known about the predictions for some rows besides their values.

    Attributes:
        conformal: intervals, or sets of classes; None if there are none.
        neighbours: nearest training molecules; None if they were not requested or not stored.
        notes: remarks for the user.
    """

    conformal: ConformalRows | None
    neighbours: Neighbours | None
    notes: tuple[str, ...]

    def target_columns(self, outputs: Outputs, target: int) -> Columns:
        """Return the columns of a target by the endings of their names: low and high, or classes; {} if there are none.

        Values are float64 [R], or str [R] such as "{0, 1}" or "{active}"; "{}" is an empty set.
        """
        found = self.conformal
        if found is None or found.missing_L[target]:
            return {}
        if found.in_set_RLC is not None:
            return {CLASSES: np.array(found.class_words(target, outputs.class_names(target)), object)}
        assert found.low_RL is not None, "intervals"
        assert found.high_RL is not None, "intervals"
        return {LOW: found.low_RL[:, target], HIGH: found.high_RL[:, target]}

    def domain_columns(self, outputs: Outputs) -> Columns:
        """Return the columns of the domain by name; {} if there are none.

        They are "nearest_training_smiles" (str or None), "nearest_training_label" (float64, or a class name or None;
        for several targets "TARGET nearest_training_label" of each), "similarity" (Tanimoto of ECFP4, float64),
        "vector_similarity" (cosine, float64, if there are vectors) and "in_domain" (bool).
        """
        found = self.neighbours
        if found is None:
            return {}
        columns: Columns = {NEAREST: np.array(found.smiles, object)}
        for at, target in enumerate(outputs.targets):
            label_R: npt.NDArray[np.generic] = found.label_RL[:, at]
            if target in outputs.classes:
                label_R = np.array(outputs.write_labels(at, found.label_RL[:, at]).to_pylist(), object)
            columns[LABEL if len(outputs.targets) == 1 else f"{target} {LABEL}"] = label_R
        columns[SIMILARITY] = found.similarity_R
        if found.vector_similarity_R is not None:
            columns[VECTOR_SIMILARITY] = found.vector_similarity_R
        return {**columns, IN_DOMAIN: found.in_domain_R}

    def of_all_rows(self, outputs: Outputs, row_R: Int64, rows: int) -> dict[str, Any]:
        """Return "low" and "high" or "class_sets" ([M, L], if there are any), and "domain" (name → column [M]).

        Args:
            outputs: the outputs of the model.
            row_R: positions of these rows among the M rows, int64.
            rows: number of rows M.
        """
        said: dict[str, Any] = {}
        of_targets = [self.target_columns(outputs, at) for at in range(len(outputs.targets))]
        for name, ending in (("low", LOW), ("high", HIGH), ("class_sets", CLASSES)):
            if any(ending in columns for columns in of_targets):
                empty = np.full(len(row_R), "", object) if ending == CLASSES else np.full(len(row_R), np.nan)
                each = [spread_over_rows(columns.get(ending, empty), row_R, rows) for columns in of_targets]
                said[name] = np.stack(each, axis=1)
        columns = self.domain_columns(outputs)
        said["domain"] = {name: spread_over_rows(values, row_R, rows) for name, values in columns.items()}
        return said


@dataclass(frozen=True, kw_only=True)
class Believing:
    """What a fine-tuned model stores for judging its predictions.

    Attributes:
        config: settings of the model.
        coverage: coverage of intervals and sets.
        calibration: calibration rows; None if there are no intervals.
        known: training molecules; None if predictions are not compared with them.
        notes: why something is missing.
    """

    config: FinetunedConfig
    coverage: float
    calibration: Calibration | None
    known: KnownMolecules | None
    notes: tuple[str, ...]

    @staticmethod
    def of(folder: Path, config: FinetunedConfig, coverage: float | None, *, domain: bool) -> "Believing":
        """Read the files of a folder.

        Args:
            folder: folder of the fine-tuned model.
            config: settings of that model.
            coverage: coverage of intervals and sets; None: as in fine-tuning.
            domain: whether to find the nearest training molecules.

        Raises:
            ConfigError: the requested coverage is invalid, or was requested of a model without intervals.
            CheckpointError: a file is damaged. A missing file, which the owner may not have shared, is only noted.
        """
        if coverage is not None:
            check_coverage(coverage)
        rule, notes = config.conformal, []
        calibration = known = None
        if rule is None:
            notes.append(_EARLIER)
        elif (folder / CALIBRATION_NAME).is_file():
            calibration = read_calibration(folder, config.outputs, rule)
        else:
            notes.append(f"no intervals, because {folder} lacks {CALIBRATION_NAME}")
        if coverage is not None and calibration is None:
            raise ConfigError(f"--coverage {coverage:g}: {notes[0] if notes else 'this model has no intervals'}")
        if domain and config.domain is not None:
            if (folder / DOMAIN_NAME).is_file():
                known = read_known(folder, config.targets, config.domain)
            else:
                notes.append(f"no nearest training molecules, because {folder} lacks {DOMAIN_NAME}")
        return Believing(
            config=config,
            coverage=coverage if coverage is not None else 0.0 if rule is None else rule.coverage,
            calibration=calibration,
            known=known,
            notes=tuple(notes),
        )._checked(is_asked=coverage is not None)

    def _checked(self, *, is_asked: bool) -> "Believing":
        """Return the same with a note on targets without intervals; raise an error if a coverage was requested."""
        if self.calibration is None:
            return self
        nothing = np.empty((len(self.config.members), 0, len(self.config.outputs.names)))
        missing_L = self._conformal(nothing).missing_L
        lacking = [target for target, missing in zip(self.config.targets, missing_L, strict=True) if missing]
        if not lacking:
            return self
        what, scarce = ("sets of classes", " of each class") if self.config.outputs.classes_each else ("intervals", "")
        needed = rows_needed(self.coverage)
        said = (
            f"no {what} for {first_names(lacking)}: a coverage of {self.coverage:g} needs {needed:,} calibration "
            f"rows{scarce}, but this model has {needed - max(missing_L):,}"
        )
        if is_asked:
            raise ConfigError(f"--coverage: {said}; use a lower coverage, or fine-tune with more rows")
        return Believing(**{**vars(self), "notes": (*self.notes, said)})

    @property
    def compares_vectors(self) -> bool:
        """Whether the vectors of molecules are needed."""
        return self.known is not None and self.known.vector_ND is not None

    def belief(self, smiles: Sequence[str], value_SRW: Float64, vector_RD: Float32 | None) -> Belief:
        """Return intervals or sets, and neighbours.

        Args:
            smiles: [R] canonical SMILES.
            value_SRW: predictions of every model, in the same scale as the calibration rows.
            vector_RD: vectors of the first model; None if they are not needed, or there are no rows.
        """
        near, rule = None, self.config.domain
        if self.known is not None and rule is not None and smiles:
            near = neighbours(self.known, rule, smiles, vector_RD)
        return Belief(
            conformal=None if self.calibration is None else self._conformal(value_SRW),
            neighbours=near,
            notes=self.notes,
        )

    def _conformal(self, value_SRW: Float64) -> ConformalRows:
        assert self.calibration is not None, "asked for only then"
        assert self.config.conformal is not None, "it has told how to read the rows"
        rule = self.config.conformal
        return conformal_rows(self.calibration, value_SRW, self.config.outputs, self.coverage, rule.floor_L)


def spread_over_rows(value_R: npt.NDArray[Any], row_R: Int64, rows: int) -> npt.NDArray[Any]:
    """Return values for all M rows, [M] or [M, L]: NaN, None or False for rows without a molecule."""
    absent = {"f": np.nan, "b": False}.get(value_R.dtype.kind)
    value_M = np.full((rows, *value_R.shape[1:]), absent, value_R.dtype)
    value_M[row_R] = value_R
    return value_M
