"""Says in a report what was learnt in place of the labels, and how rows and classes weigh. Shapes: R training rows."""

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.label_settings import LabelSettings
from unimol_scale.downstream.labels.outputs import Outputs

STANDARDISED = "labels are standardised for training, by mean and standard deviation of the training rows"


def describe_learning(
    settings: LabelSettings, outputs: Outputs, weight_R: npt.NDArray[np.float64] | None, where: str
) -> list[str]:
    """Return lines for the report on what was asked for.

    Args:
        settings: of the labels.
        outputs: what the models predict.
        weight_R: of the training rows; None: all weigh the same.
        where: of a cross-validation, the fold whose training rows these are, else "".
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
        notes.append("all classes weigh the same in the loss (class_weights balanced); scores are not weighted")
    return notes
