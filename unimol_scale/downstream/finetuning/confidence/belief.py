"""Says of predicted molecules how far each prediction can be believed: intervals or sets, neighbours, the domain.

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

LOW, HIGH, CLASSES = "low", "high", "classes"  # behind the name of a target
NEAREST, LABEL = "nearest_training_smiles", "nearest_training_label"
SIMILARITY, VECTOR_SIMILARITY, IN_DOMAIN = "similarity", "vector_similarity", "in_domain"
_EARLIER = "intervals and nearest training molecules need a new fine-tuning: this model is older than they are"

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Belief:
    """What is known of the predictions of some rows beside their values.

    Attributes:
        conformal: intervals, or sets of classes; None: there are none.
        neighbours: nearest training molecules; None: nobody looked for them, or they were not kept.
        notes: what a user must be told.
    """

    conformal: ConformalRows | None
    neighbours: Neighbours | None
    notes: tuple[str, ...]

    def target_columns(self, outputs: Outputs, target: int) -> Columns:
        """Return the columns of a target, by the ends of their names: low and high, or classes; {} without any.

        Values are float64 [R], or str [R] such as "{0, 1}" or "{active}", "{}" where no class is credible.
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
        """Return the columns of the domain by name; {} without any.

        "nearest_training_smiles" (str, None if there is none), "nearest_training_label" (float64, or the name of a
        class, None if there is none; of several targets "TARGET nearest_training_label" of each), "similarity"
        (Tanimoto of ECFP4, float64), "vector_similarity" (cosine, float64, if there are vectors), "in_domain" (bool).
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
        """Return "low" and "high" or "class_sets" ([M, L], if there are any), and "domain", its columns [M] by name.

        Args:
            outputs: what is predicted.
            row_R: int64, which of the M rows these are.
            rows: M.
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
    """What a fine-tuned model has for judging its own predictions.

    Attributes:
        config: of the model.
        coverage: of intervals and sets.
        calibration: None: there are no intervals.
        known: training molecules; None: they are not compared.
        notes: why something is missing.
    """

    config: FinetunedConfig
    coverage: float
    calibration: Calibration | None
    known: KnownMolecules | None
    notes: tuple[str, ...]

    @staticmethod
    def of(folder: Path, config: FinetunedConfig, coverage: float | None, *, domain: bool) -> "Believing":
        """Read what a folder has.

        Args:
            folder: of the fine-tuned model.
            config: of that model.
            coverage: of intervals and sets; None: as the model was fine-tuned.
            domain: whether the nearest training molecules are looked for.

        Raises:
            ConfigError: a coverage is asked for that is none, or of a model that has no intervals.
            CheckpointError: a file is damaged; one that is missing, since it was not passed on, is only noted.
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
            notes.append(f"no intervals, since {folder} lacks {CALIBRATION_NAME}")
        if coverage is not None and calibration is None:
            raise ConfigError(f"--coverage {coverage:g}: {notes[0] if notes else 'this model has no intervals'}")
        if domain and config.domain is not None:
            if (folder / DOMAIN_NAME).is_file():
                known = read_known(folder, config.targets, config.domain)
            else:
                notes.append(f"no nearest training molecules, since {folder} lacks {DOMAIN_NAME}")
        return Believing(
            config=config,
            coverage=coverage if coverage is not None else 0.0 if rule is None else rule.coverage,
            calibration=calibration,
            known=known,
            notes=tuple(notes),
        )._checked(is_asked=coverage is not None)

    def _checked(self, *, is_asked: bool) -> "Believing":
        """Return the same with a note on targets without intervals, which is an error if a coverage was asked for."""
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
            f"no {what} for {first_names(lacking)}: a coverage of {self.coverage:g} takes {needed:,} calibration "
            f"rows{scarce}, and this model has {needed - max(missing_L):,}"
        )
        if is_asked:
            raise ConfigError(f"--coverage: {said}; ask for less, or fine-tune with more rows")
        return Believing(**{**vars(self), "notes": (*self.notes, said)})

    @property
    def compares_vectors(self) -> bool:
        """Whether the vectors of molecules are needed."""
        return self.known is not None and self.known.vector_ND is not None

    def belief(self, smiles: Sequence[str], value_SRW: Float64, vector_RD: Float32 | None) -> Belief:
        """Return intervals or sets, and neighbours.

        Args:
            smiles: [R] canonical.
            value_SRW: predictions of every model, as ``ConformalRows`` are in.
            vector_RD: of the first model; None: not needed, or there is no row.
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
    """Return the values of all M rows, [M] or [M, L]: NaN, None or False for those without a molecule."""
    absent = {"f": np.nan, "b": False}.get(value_R.dtype.kind)
    value_M = np.full((rows, *value_R.shape[1:]), absent, value_R.dtype)
    value_M[row_R] = value_R
    return value_M
