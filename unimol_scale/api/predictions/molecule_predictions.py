"""The predictions of a fine-tuned model as a Python object.

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
    """The predictions of a fine-tuned model, in the order of the given molecules.

    ``numpy.asarray`` returns ``values``. Predictions with equal content are equal.

    Attributes:
        targets: [L] names of the targets.
        units: target → unit, if one is known.
        smiles: SMILES as given, str [M]; "" for a missing SMILES.
        values: predictions averaged over seeds, float64 [M, L], in the units of the targets. For a classification, the
            probability of class 1 (the positive class, the last of ``classes``); for more than two classes the
            probability of each, [M, K]. NaN for molecules that cannot be used.
        seed_std: standard deviation over seeds, float64, same shape as ``values``; not an error bar. NaN for a single
            seed.
        reasons: why a molecule cannot be used, str [M]; "" for usable molecules.
        smiles_used: canonical SMILES that the model saw, str [M]; None for molecules that cannot be used.
        changes: how the molecule was modified, such as the fragment that was used, str [M]; "" if it was not.
        conformer_std: standard deviation over the conformers of a molecule, averaged over seeds, float64, same shape as
            ``values``; NaN for a molecule with a single conformer. None if one conformer was requested.
        task: the kind of labels that the model predicts.
        classes: target → names of its classes; targets with numbers, or with 0 and 1, are absent.
        low: lower ends of conformal intervals, float64 [M, L], NaN where there is none; None for a classification, or
            for a model without calibration rows.
        high: upper ends of the intervals, float64 [M, L]; NaN and None as for ``low``.
        class_sets: conformal prediction sets, str [M, L], such as "{0, 1}" or "{active}"; "" or None where there is
            none. None for a regression, or for a model without calibration rows.
        domain: column name → values [M]: "nearest_training_smiles", "nearest_training_label" (for several targets
            "TARGET nearest_training_label"), "similarity", "vector_similarity" and "in_domain"; {} if they were not
            requested.
        notes: remarks for the user, such as why there are no intervals.
        dropout_std: standard deviation over draws of the head's dropout, averaged over seeds, float64, same shape as
            ``values``; None if no draws were requested.
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
        """The meaning of the columns of ``values``."""
        return Outputs(task=self.task, targets=self.targets, classes=self.classes)

    @property
    def predicted_classes(self) -> dict[str, Texts]:
        """Target → names of the predicted classes, [M], None for molecules that cannot be used.

        Only for targets whose classes have names.
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
        """Return name → column [M], for a DataFrame.

        The columns are smiles, each target with its spreads and interval, the columns of ``domain``, reason,
        smiles_used and changes. For named classes, the column of the target holds the name of the predicted class, and
        "TARGET p(CLASS)" the probability of the positive class, or of each class if there are more than two.
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
        """Return the columns of ``to_dict`` as a pyarrow Table; missing numbers are null."""
        return pa.table({name: pa.array(values, from_pandas=True) for name, values in self.to_dict().items()})


def molecule_predictions(found: SeedPredictions, given: Sequence[str] | None) -> MoleculePredictions:
    """Return the mean and spread of several models' predictions, in the order of the molecules.

    Args:
        found: the predictions of every model.
        given: [M] SMILES as the caller gave them; None: as they were read from a file.
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
