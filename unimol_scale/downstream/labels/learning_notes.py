"""Lines of a report on transformed labels and on weights of rows and classes. Shapes: R training rows."""

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.label_settings import LabelSettings
from unimol_scale.downstream.labels.outputs import Outputs

STANDARDISED = "labels are standardised for training, by mean and standard deviation of the training rows"


def describe_learning(
    settings: LabelSettings, outputs: Outputs, weight_R: npt.NDArray[np.float64] | None, where: str
) -> list[str]:
    """Return lines for the report on the transforms and weights that were requested.

    Args:
        settings: settings of the labels.
        outputs: outputs of the models.
        weight_R: weights of the training rows; None: equal weights.
        where: in a cross-validation, the fold of these training rows; otherwise "".
    """
    notes = []
    if transforms := settings.transforms_of(outputs.targets):
        learnt = ", ".join(f"{name} of {target!r}" for target, name in transforms.items())
        notes.append(
            f"learnt instead of the labels: {learnt}, standardised like all labels; predictions, scores and units are "
            "still those of the labels"
        )
    if weight_R is not None:
        share_R = weight_R / weight_R.mean()
        fold = f" ({where})" if where else ""
        notes.append(
            f"rows are weighted in the loss by the column {settings.weight_column!r}, divided by its mean: "
            f"{share_R.min():.3g} to {share_R.max():.3g}{fold}; scores are not weighted"
        )
    if settings.class_weights == "balanced":
        notes.append("all classes have the same total weight in the loss (class_weights balanced), but not in scores")
    return notes
