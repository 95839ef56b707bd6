"""What a fine-tuned model predicts of molecules, as a Python object.

Shapes: M molecules, L targets, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from unimol_scale.api.equal_content import same_content
from unimol_scale.api.molecule_inputs import SMILES
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.data.own_geometry.smiles_with_geometry import without_geometry
from unimol_scale.downstream.finetuning.confidence.belief import CLASSES, HIGH, LOW, spread_over_rows
from unimol_scale.downstream.finetuning.confidence.calibration_file import seed_spread
from unimol_scale.downstream.finetuning.labelled_rows import CONFORMER_SPREAD, DROPOUT_SPREAD, SPREAD
from unimol_scale.downstream.finetuning.predictions.seed_predictions import SeedPredictions
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.store.schema import Float64

Texts = npt.NDArray[np.object_]


@dataclass(frozen=True, kw_only=True, eq=False)
class MoleculePredictions:
    """What a fine-tuned model predicts, in the order of the molecules that were given.

    ``numpy.asarray`` of it gives ``values``. Predictions of equal content are equal.

    Attributes:
        targets: [L] names.
        units: target → unit, where one is known.
        smiles: str [M] as given; "" where a SMILES was missing.
        values: float64 [M, L], the mean over seeds, in the units of the targets; of a classification the probability of
            class 1 (the positive class, the last of ``classes``); of several classes [M, K], that of each. NaN where
            the molecule cannot be used.
        seed_std: float64, shape of ``values``, standard deviation over seeds; it is not an error bar. NaN of a single
            seed.
        reasons: str [M], why a molecule cannot be used; "" where it can.
        smiles_used: str [M], the canonical SMILES that the model saw; None where the molecule cannot be used.
        changes: str [M], what made another molecule of a SMILES, such as a fragment that was taken; "" for nothing.
        conformer_std: float64, shape of ``values``, standard deviation over the conformers of a molecule, as a mean
            over seeds; NaN for a molecule with one. None if one conformer was asked for.
        task: what the model predicts.
        classes: target → names of its classes; targets of numbers, or of 0 and 1, are not there.
        low: float64 [M, L], lower ends of conformal intervals, NaN where there is none; None of classes, or of a model
            without calibration rows.
        high: likewise, upper ends.
        class_sets: str [M, L], sets of credible classes, such as "{0, 1}" or "{active}"; "" or None where there is
            none. None of a regression, or of a model without calibration rows.
        domain: column → values [M]: "nearest_training_smiles", "nearest_training_label" (of several targets "TARGET
            nearest_training_label"), "similarity", "vector_similarity" and "in_domain"; {} if nobody looked for them.
        notes: what a user must be told, such as why there are no intervals.
        dropout_std: float64, shape of ``values``, standard deviation over draws of the head's dropout, as a mean over
            seeds; None if no draws were asked for.
    """

    targets: tuple[str, ...]
    units: Mapping[str, str]
    smiles: Texts
    values: Float64
    seed_std: Float64
    reasons: Texts
    smiles_used: Texts
    changes: Texts
    conformer_std: Float64 | None = None
    task: Task = "regression"
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    low: Float64 | None = None
    high: Float64 | None = None
    class_sets: Texts | None = None
    domain: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dropout_std: Float64 | None = None

    @property
    def outputs(self) -> Outputs:
        """What the columns of ``values`` are."""
        return Outputs(task=self.task, targets=self.targets, classes=self.classes)

    @property
    def predicted_classes(self) -> dict[str, Texts]:
        """Target → the name of the predicted class of each molecule [M], None where it cannot be used.

        Only of targets whose classes have names.
        """
        return self.outputs.decide(self.values)

    def __eq__(self, other: object) -> bool:
        return same_content(vars(self), vars(other)) if isinstance(other, MoleculePredictions) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.targets, tuple(self.smiles.tolist())))

    def __len__(self) -> int:
        return len(self.smiles)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:  # noqa: ANN401
        return np.array(self.values, dtype=dtype)

    def __repr__(self) -> str:
        usable = int((self.reasons == "").sum())
        return f"MoleculePredictions({', '.join(self.targets)} of {usable:,} of {len(self):,} molecules)"

    def to_dict(self) -> dict[str, npt.NDArray[Any]]:
        """Return columns for a DataFrame: smiles, each target with its spreads and interval, the domain, and the rest.

        The rest are reason, smiles_used and changes. Of classes with names, the column of the target has the name of
        the predicted class, and "TARGET p(CLASS)" its probability, or that of each of several classes.
        """
        columns: dict[str, npt.NDArray[Any]] = {SMILES: self.smiles}
        outputs, decided = self.outputs, self.predicted_classes
        for at, target in enumerate(self.targets):
            if target in decided:
                columns[target] = decided[target]
            for place in outputs.places(at):
                name = outputs.names[place]
                columns[name] = self.values[:, place]
                columns[f"{name}{SPREAD}"] = self.seed_std[:, place]
                if self.conformer_std is not None:
                    columns[f"{name}{CONFORMER_SPREAD}"] = self.conformer_std[:, place]
                if self.dropout_std is not None:
                    columns[f"{name}{DROPOUT_SPREAD}"] = self.dropout_std[:, place]
            for ending, values in ((LOW, self.low), (HIGH, self.high), (CLASSES, self.class_sets)):
                if values is not None:
                    columns[f"{target} {ending}"] = values[:, at]
        columns.update(self.domain)
        return {**columns, "reason": self.reasons, "smiles_used": self.smiles_used, "changes": self.changes}

    def to_table(self) -> pa.Table:
        """Return the same columns as a pyarrow Table, null where a number is missing."""
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in self.to_dict().items()})


def molecule_predictions(found: SeedPredictions, given: Sequence[str] | None) -> MoleculePredictions:
    """Return what several models predict as their mean and spread, in the order of the molecules.

    Args:
        found: by every model.
        given: SMILES [M] as the caller has them; None: as they were read from a file.
    """
    molecules, row_R = found.molecules, found.row_R
    M, outputs = len(molecules.smiles), found.config.outputs
    conformer_std = found.conformer_std_RL
    smiles = np.array(molecules.smiles if given is None else [without_geometry(text) for text in given], object)
    reasons = np.full(M, "", object)
    for skipped in molecules.skipped:
        smiles[skipped.row] = skipped.smiles
        reasons[skipped.row] = f"{skipped.reason}: {skipped.detail}" if skipped.detail else skipped.reason
    return MoleculePredictions(
        targets=found.config.targets,
        units=found.config.units,
        smiles=smiles,
        values=spread_over_rows(found.value_SRL.mean(axis=0), row_R, M),
        seed_std=spread_over_rows(seed_spread(found.value_SRL), row_R, M),
        reasons=reasons,
        smiles_used=np.array([text or None for text in molecules.smiles], object),
        changes=np.array(molecules.changes, object),
        conformer_std=None if conformer_std is None else spread_over_rows(conformer_std, row_R, M),
        task=found.config.task,
        classes=found.config.classes,
        notes=found.belief.notes,
        dropout_std=None if found.dropout_std_RL is None else spread_over_rows(found.dropout_std_RL, row_R, M),
        **found.belief.of_all_rows(outputs, row_R, M),
    )
