"""Logarithms of labels, which a model can learn instead of the labels. Shapes: R rows, L targets."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from unimol_scale.downstream.config import Transform
from unimol_scale.downstream.labels.label_columns import named_rows
from unimol_scale.errors import SourceError

Float64 = npt.NDArray[np.float64]

_FUNCTIONS: dict[Transform, Callable[[Float64], Float64]] = {
    "none": lambda label_R: label_R,
    "log": np.log,
    "log10": np.log10,
}


def transform_labels(label_RL: Float64, transforms: Sequence[Transform]) -> Float64:
    """Return transformed labels or bounds, float64 [R, L]; NaN stays NaN.

    All transforms are increasing, so a lower bound remains a lower bound.

    Args:
        label_RL: labels or bounds, which must be positive for targets with a logarithm.
        transforms: [L] transform of each target; empty: none.
    """
    if not transforms:
        return label_RL
    return np.stack([_FUNCTIONS[name](label_R) for name, label_R in zip(transforms, label_RL.T, strict=True)], axis=1)


def check_positive(
    where: str, targets: Sequence[str], label_ML: Float64, transforms: Mapping[str, Transform], smiles: Sequence[str]
) -> None:
    """Check that labels or bounds have logarithms.

    Raises:
        SourceError: a label or bound is not positive; the message names the first rows.
    """
    for target, name in transforms.items():
        label_M = label_ML[:, targets.index(target)]
        wrong = np.flatnonzero(label_M <= 0.0)
        if len(wrong):
            shown = named_rows(wrong, smiles, label_M[wrong].tolist())
            raise SourceError(
                f"{where}: {len(wrong):,} labels of the target {target!r} are not positive and have no {name}: {shown}"
                "; leave them empty, or take another --transform"
            )
