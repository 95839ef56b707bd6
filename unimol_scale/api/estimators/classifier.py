"""``MoleculeClassifier``: a scikit-learn estimator for classes, or several yes-or-no labels, of molecules.

Shapes: M molecules, L labels, K classes.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from unimol_scale.api.estimators.estimator_inputs import (
    MoleculeInputError,
    as_numbers,
    molecules_of,
    table_of_labels,
    weights_of,
)
from unimol_scale.api.estimators.finetuned_estimator import FinetunedEstimator, known_rows
from unimol_scale.api.estimators.fitted_folder import FinetunedFolder
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig
from unimol_scale.downstream.metrics import THRESHOLD
from unimol_scale.store.schema import Float64

MULTICLASS = "multiclass"  # the task of more than two classes


class MoleculeClassifier(ClassifierMixin, FinetunedEstimator):  # type: ignore[misc]
    """Classification of molecules by fine-tuning a pretrained model, as a scikit-learn estimator.

    ``fit`` does what ``us.finetune`` does, but sets no test rows aside. The parameters are documented in ``__init__``.
    The estimator can be cloned and pickled (the pickle holds the fine-tuned weights, not the pretrained model), and
    works in pipelines, ``cross_val_score`` and ``GridSearchCV``.

    Attributes:
        classes_: [K] sorted classes; for several labels a list of L arrays [0, 1].
        target_names_: [L] names of the labels: the column names of y if it has any.
        folder_: folder of the fine-tuned models and their report.md; ``us.predict`` accepts it.
        result_: scores of the validation rows, notes on the data and more; None if the folder has no results.

    Raises:
        ConfigError: in ``fit``: a parameter or a setting is wrong, or ``folder`` holds another fine-tuning.
        MoleculeInputError: some molecules or labels cannot be used; the message names them. It is both a SourceError
            and a ValueError.
        CheckpointError: the pretrained model cannot be loaded.
        RunError: training failed.

    Source:
        The interface: scikit-learn (Buitinck et al. 2013, arXiv 1309.0238).

    Example:
        >>> import unimol_scale as us
        >>> smiles = ["C" * n for n in range(1, 21)] + ["C" * n + "O" for n in range(1, 21)]
        >>> kinds = ["alkane"] * 20 + ["alcohol"] * 20
        >>> model = us.MoleculeClassifier("runs/hello", epochs=2, inputs="2d").fit(smiles, kinds)
        >>> model.classes_.tolist(), model.predict_proba(["CCO", "CCCC"]).shape
        (['alcohol', 'alkane'], (2, 2))
        >>> set(model.predict(["CCO", "CCCC"])) <= {"alcohol", "alkane"}
        True
    """

    _tasks: ClassVar[tuple[str, ...]] = ("classification", "multilabel", MULTICLASS)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MoleculeClassifier":  # noqa: ANN401
        """Fine-tune on the rows; the fraction ``validation_fraction`` of them chooses the best epoch instead.

        Args:
            X: [M] SMILES or RDKit molecules, in a list, array, Series or table with one column.
            y: [M] classes, as numbers or names; or [M, L] of 0 and 1, of which some may be missing (NaN).
            sample_weight: [M] non-negative weights of the rows in the loss; None: equal weights. Scores of the
                validation rows are not weighted.
        """
        smiles = molecules_of(X, sees_3d=self.inputs != "2d")
        values, names = table_of_labels(y, len(smiles))
        weight_M = weights_of(sample_weight, len(smiles))
        if values.ndim == 1:
            classes, label_M = _coded(values)
            task = "classification" if len(classes) == 2 else MULTICLASS
            self._fit(smiles, label_M[:, None], names, task, {"classes": classes.tolist()}, weight_M)
        else:
            self._fit(smiles, _zeros_and_ones(values), names, "multilabel", {}, weight_M)
        return self

    def predict_proba(self, X: Any) -> Float64:  # noqa: ANN401
        """Return probabilities; NaN for unusable molecules if ``handle_invalid="nan"``.

        Args:
            X: [M] molecules, as in ``fit``.

        Returns:
            float64 [M, K], in the order of ``classes_``; for several labels float64 [M, L], the probability that each
            label is 1.

        Raises:
            NotFittedError: ``fit`` was not called.
            MoleculeInputError: a molecule cannot be used; the message names it.
        """
        return self._probabilities(self._predictions(X).values)

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: ANN401
        """Return the most likely class of each molecule; for several labels, 1 where the probability is at least 0.5.

        With ``handle_invalid="nan"`` unusable molecules are NaN; the array then holds floats, or objects for names.

        Args:
            X: [M] molecules, as in ``fit``.

        Returns:
            [M] elements of ``classes_``; for several labels int64 [M, L] of 0 and 1.

        Raises:
            NotFittedError: ``fit`` was not called.
            MoleculeInputError: a molecule cannot be used; the message names it.
        """
        return self._decided(self._predictions(X).values)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: ANN401
        """Return the accuracy: the fraction of molecules whose class, or all of whose known labels, are correct.

        With ``handle_invalid="nan"`` molecules that cannot be used are left out with a warning.

        Raises:
            NotFittedError: ``fit`` was not called.
            MoleculeInputError: the shape of y differs from that in ``fit``, or a molecule cannot be used.
        """
        found = self._predictions(X)
        label, _ = table_of_labels(y, len(found))
        decided = self._decided(found.values)
        if label.shape != decided.shape:
            raise MoleculeInputError(f"y: expected the shape {decided.shape}, got {label.shape}")
        if label.ndim == 2:
            label_ML = as_numbers(label)
            right_M = ((decided == label_ML) | np.isnan(label_ML)).all(axis=1)
        else:
            right_M = decided == label
        usable_M = known_rows(found, len(found))
        weight_M = np.ones(len(found)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        return float(np.average(right_M[usable_M], weights=weight_M[usable_M]))

    @classmethod
    def from_folder(cls, folder: "str | PathLike[str]", **parameters: Any) -> "MoleculeClassifier":  # noqa: ANN401
        """Open a folder that ``unimol-scale finetune``, ``us.finetune`` or ``fit`` wrote as a fitted estimator.

        Args:
            folder: folder of the fine-tuned model; its files stay there.
            parameters: parameters of the estimator, such as ``device`` and ``handle_invalid``. The settings of the
                fine-tuning are not read from the folder; a new ``fit`` uses these parameters.

        Raises:
            CheckpointError: the folder is not a fine-tuned model, or is damaged.
            ConfigError: the model is a regression.
        """
        opened: MoleculeClassifier = cls._open(folder, parameters)
        return opened

    def _take(self, fitted: FinetunedFolder, config: FinetunedConfig, known: Mapping[str, Any]) -> None:
        super()._take(fitted, config, known)
        named = getattr(config, "classes", {}).get(config.targets[0], (0, 1))  # for a folder that ``fit`` did not write
        self.classes_: Any = np.array(known.get("classes", named))
        if config.task == "multilabel":
            self.classes_ = [np.array([0, 1]) for _ in config.targets]

    def _probabilities(self, value_MW: Float64) -> Float64:
        """Return probabilities [M, K], or [M, L] for several labels, from the W outputs per molecule."""
        one_of_two = not isinstance(self.classes_, list) and value_MW.shape[1] == 1
        return np.hstack([1.0 - value_MW, value_MW]) if one_of_two else value_MW

    def _decided(self, value_MW: Float64) -> npt.NDArray[Any]:
        unknown_M = np.isnan(value_MW).any(axis=1)
        if isinstance(self.classes_, list):
            decided: npt.NDArray[Any] = (value_MW >= THRESHOLD).astype(np.int64)
        elif value_MW.shape[1] == 1:
            decided = self.classes_[(value_MW[:, 0] >= THRESHOLD).astype(np.int64)]
        else:
            decided = self.classes_[value_MW.argmax(axis=1)]
        if unknown_M.any():
            decided = decided.astype(np.float64 if decided.dtype.kind in "biuf" else object)
            decided[unknown_M] = np.nan
        return decided

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = True
        tags.classifier_tags.multi_label = True
        return tags


def _coded(values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], Float64]:
    """Return the sorted classes, and the index of each label among them, float64 [M].

    Raises:
        MoleculeInputError: a label is missing, or there is only one class.
        ValueError: from scikit-learn, if the labels are not classes.
    """
    missing_M = np.array([value is None or value != value for value in values.tolist()])  # NaN differs from itself
    if missing_M.any():
        raise MoleculeInputError(
            f"y: Input y contains NaN: {missing_M.sum():,} of {len(values):,} labels are missing, the first is "
            f"y[{int(missing_M.argmax())}]; leave those molecules out"
        )
    check_classification_targets(values)
    classes, place_M = np.unique(values, return_inverse=True)
    if len(classes) == 1:
        raise MoleculeInputError(
            f"y: all {len(values):,} labels are of one class, {classes.tolist()[0]!r}; give labels of two or more"
        )
    return classes, place_M.astype(np.float64)


def _zeros_and_ones(values: npt.NDArray[Any]) -> Float64:
    """Return labels, float64 [M, L], of 0, 1 and NaN.

    Raises:
        MoleculeInputError: a label has another value.
    """
    label_ML = as_numbers(values)
    wrong = np.argwhere(~np.isnan(label_ML) & ~np.isin(label_ML, (0.0, 1.0)))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise MoleculeInputError(
            f"y: with several labels per molecule each must be 0, 1 or missing (NaN), got {label_ML[row, column]:g} in "
            f"y[{row}, {column}]"
        )
    return label_ML
