"""Converts the X and y of scikit-learn to SMILES and numbers, and reports unusable ones.

Shapes: M molecules, L targets.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from unimol_scale.api.table_columns import columns_of
from unimol_scale.common.text.argument_names import require_order
from unimol_scale.downstream.data.molecules import listed
from unimol_scale.downstream.data.own_geometry.smiles_with_geometry import has_geometry, without_geometry
from unimol_scale.downstream.data.skipped_rows import NAMED
from unimol_scale.errors import ConfigError, SourceError, nearest
from unimol_scale.store.schema import Float64

HandleInvalid = Literal["raise", "nan"]
# Columns that a fine-tuning writes beside those of the targets; no target may have these names.
TAKEN = ("smiles", "row", "split")


class MoleculeInputError(SourceError, ValueError):
    """Molecules or labels given to an estimator cannot be used; also a ValueError, as scikit-learn expects."""


def molecules_of(X: Any, *, sees_3d: bool = False) -> list[str]:  # noqa: ANN401
    """Return the SMILES of molecules, with coordinates if they have a conformer; "" for a missing molecule.

    Args:
        X: [M] a list, array or column of SMILES or RDKit molecules, or a table with one such column.
        sees_3d: whether the model may use conformers; if so, warn if only some of the molecules have one.

    Raises:
        MoleculeInputError: X is something else, or empty.
    """
    if isinstance(X, str):
        raise MoleculeInputError(f"X: expected a list of SMILES, got one text; write [{X!r}]")
    try:
        require_order(X, "X")
        columns = columns_of(X)
        if columns is not None:
            X = _only_column(columns)
        elif getattr(X, "ndim", 1) == 2:
            X = _only_column(dict(enumerate(X.T)))
        texts = listed(X, "X")
    except MoleculeInputError:
        raise
    except (SourceError, ConfigError) as error:
        raise MoleculeInputError(str(error)) from error
    with_geometry = sum(map(has_geometry, texts)) if sees_3d else 0
    if 0 < with_geometry < len(texts):
        warnings.warn(
            f"X: {with_geometry:,} of {len(texts):,} molecules have a conformer, which is used; conformers of the "
            "others are generated, and may come from another method",
            stacklevel=3,
        )
    if not texts:
        raise MoleculeInputError("X: no molecule was given")
    return texts


def _only_column(columns: dict[Any, Any]) -> Any:  # noqa: ANN401
    if len(columns) == 1:
        return next(iter(columns.values()))
    names = ", ".join(map(str, columns))
    raise MoleculeInputError(
        f"X: expected one column of molecules, got a table of {len(columns)} columns ({names[:200]}); give the column "
        'that holds the molecules, such as table["smiles"]'
    )


def table_of_labels(y: Any, rows: int) -> tuple[npt.NDArray[Any], tuple[str, ...]]:  # noqa: ANN401
    """Return labels as an array, [M] or [M, L] as given and of any dtype, and the names of the targets.

    Args:
        y: list, array, Series, or DataFrame with one column per target.
        rows: number of molecules M.

    Raises:
        MoleculeInputError: y is None, has another number of dimensions, or does not have one row per molecule.
    """
    if y is None:
        raise MoleculeInputError("y: this estimator requires y to be passed, but the target y is None")
    require_order(y, "y")
    columns = columns_of(y)
    if columns is not None:
        values = np.stack([np.asarray(column) for column in columns.values()], axis=1)
        names: Sequence[Any] = list(columns)
    else:
        values, names = np.asarray(y), [getattr(y, "name", None)]
    if values.ndim not in (1, 2) or values.size == 0:
        raise MoleculeInputError(f"y: expected [molecules] or [molecules, targets], got the shape {values.shape}")
    if len(values) != rows:
        raise MoleculeInputError(
            f"X and y have inconsistent numbers of samples: {rows:,} molecules, {len(values):,} labels"
        )
    return values, _target_names(names, 1 if values.ndim == 1 else values.shape[1])


def _target_names(given: Sequence[Any], count: int) -> tuple[str, ...]:
    """Return the given names if they can be columns of a table; otherwise "y", or "y1", "y2" and so on."""
    names = [name for name in given if isinstance(name, str) and name and name == name.strip() and name not in TAKEN]
    if len(names) == count == len(set(names)):
        return tuple(names)
    return ("y",) if count == 1 else tuple(f"y{at}" for at in range(1, count + 1))


def as_numbers(values: npt.NDArray[Any]) -> Float64:
    """Return labels as float64 of the same shape; NaN and None are missing labels.

    Raises:
        MoleculeInputError: a label is not a number or is infinite, or a label of a single target is missing.
    """
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise MoleculeInputError(f"y: the labels are not numbers: {error}") from error
    if np.isinf(numbers).any():
        row = int(np.argwhere(np.isinf(numbers))[0][0])
        raise MoleculeInputError(f"y: Input y contains infinity or a value too large, the first in y[{row}]")
    if numbers.ndim == 1 and (missing := np.isnan(numbers)).any():
        raise MoleculeInputError(
            f"y: Input y contains NaN: {missing.sum():,} of {len(numbers):,} labels are missing, the first is "
            f"y[{int(missing.argmax())}]; leave those molecules out (of several targets, some may be missing)"
        )
    return numbers


def weights_of(sample_weight: Any, rows: int) -> Float64 | None:  # noqa: ANN401
    """Return the weights of the rows in the loss, float64 [M]; None if none are given.

    Raises:
        MoleculeInputError: there is not one weight per row, one is negative or not a finite number, or all are zero.
    """
    if sample_weight is None:
        return None
    require_order(sample_weight, "sample_weight")
    try:
        weight_M = np.asarray(sample_weight, np.float64)
    except (TypeError, ValueError) as error:
        raise MoleculeInputError(f"sample_weight: the weights are not numbers: {error}") from error
    if weight_M.ndim != 1:
        raise MoleculeInputError(
            f"Sample weights must be 1D array or scalar, got the shape {weight_M.shape}; give one number for "
            "each molecule"
        )
    if len(weight_M) != rows:
        raise MoleculeInputError(f"sample_weight.shape == {weight_M.shape}, expected {(rows,)}!")
    wrong_M = ~np.isfinite(weight_M) | (weight_M < 0.0)
    if wrong_M.any():
        row = int(wrong_M.argmax())
        raise MoleculeInputError(f"sample_weight: expected numbers ≥ 0, got {weight_M[row]:g} in sample_weight[{row}]")
    if not weight_M.any():
        raise MoleculeInputError("sample_weight: all weights are 0; at least one must be positive")
    return weight_M


def check_handling(handle_invalid: str) -> None:
    """Check the parameter ``handle_invalid``.

    Raises:
        ConfigError: its value is unknown.
    """
    if handle_invalid not in get_args(HandleInvalid):
        raise ConfigError(
            f"handle_invalid: unknown value {handle_invalid!r}; {nearest(handle_invalid, get_args(HandleInvalid))}"
        )


def refuse_unusable(unusable: Sequence[tuple[int, str, str]], total: int) -> None:
    """Raise an error that names the first molecules that cannot be used; do nothing if there are none.

    Args:
        unusable: row (from 0), text and reason of each unusable molecule.
        total: number of molecules given.

    Raises:
        MoleculeInputError: there is an unusable molecule.
    """
    if unusable:
        raise MoleculeInputError(
            f"X: {_described(unusable, total)}. Correct them, or continue without them: handle_invalid='nan'"
        )


def warn_of_unusable(unusable: Sequence[tuple[int, str, str]], total: int, done: str) -> None:
    """Warn of molecules that cannot be used and say what was ``done`` with them; do nothing if there are none."""
    if unusable:
        warnings.warn(f"X: {_described(unusable, total)}; {done}", stacklevel=4)  # points at the caller of fit or score


def _described(unusable: Sequence[tuple[int, str, str]], total: int) -> str:
    first = "; ".join(f"X[{row}] {without_geometry(text)!r}: {reason}" for row, text, reason in unusable[:NAMED])
    more = f"; and {len(unusable) - NAMED:,} more" if len(unusable) > NAMED else ""
    return f"{len(unusable):,} of {total:,} molecules cannot be used: {first}{more}"
