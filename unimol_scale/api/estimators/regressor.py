"""``MoleculeRegressor``: a scikit-learn estimator for numeric properties of molecules.

Shapes: M molecules, L targets.
"""

from collections.abc import Mapping
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score

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
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import Float64


class MoleculeRegressor(RegressorMixin, FinetunedEstimator):  # type: ignore[misc]
    """Regression of molecular properties by fine-tuning a pretrained model, as a scikit-learn estimator.

    ``fit`` does what ``us.finetune`` does, but sets no test rows aside. The parameters are documented in ``__init__``.
    The estimator can be cloned and pickled (the pickle holds the fine-tuned weights, not the pretrained model), and
    works in pipelines, ``cross_val_score`` and ``GridSearchCV``.

    Attributes:
        target_names_: [L] names of the targets: the column names of y if it has any.
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
        >>> from sklearn.model_selection import cross_val_score
        >>> smiles = ["C" * n for n in range(1, 25)]
        >>> carbons = [len(text) for text in smiles]
        >>> model = us.MoleculeRegressor("runs/hello", epochs=2, seeds=2, inputs="2d").fit(smiles, carbons)
        >>> model.predict(["CCO", "CCCC"]).shape
        (2,)
        >>> values, spread = model.predict(["CCO", "CCCC"], return_std=True)
        >>> cross_val_score(us.MoleculeRegressor("runs/hello", epochs=1, inputs="2d"), smiles, carbons, cv=2).shape
        (2,)
    """

    _tasks: ClassVar[tuple[str, ...]] = ("regression",)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "MoleculeRegressor":  # noqa: ANN401
        """Fine-tune on the rows; the fraction ``validation_fraction`` of them chooses the best epoch instead.

        Args:
            X: [M] SMILES or RDKit molecules, in a list, array, Series or table with one column.
            y: labels [M], or [M, L] for several targets, of which some may be missing (NaN).
            sample_weight: [M] non-negative weights of the rows in the loss; None: equal weights. Scores of the
                validation rows are not weighted.
        """
        smiles = molecules_of(X, sees_3d=self.inputs != "2d")
        values, names = table_of_labels(y, len(smiles))
        weight_M = weights_of(sample_weight, len(smiles))
        labels = as_numbers(values)
        known = {"single": labels.ndim == 1}
        self._fit(smiles, labels.reshape(len(smiles), -1), names, "regression", known, weight_M)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Float64 | tuple[Float64, Float64]:  # noqa: ANN401
        """Return predictions in the unit of y; NaN for unusable molecules if ``handle_invalid="nan"``.

        Args:
            X: [M] molecules, as in ``fit``.
            return_std: also return the standard deviation over the models of several ``seeds``. It is not an error bar.

        Returns:
            float64 [M], or [M, L] if y had two dimensions; with ``return_std`` a pair of such arrays.

        Raises:
            NotFittedError: ``fit`` was not called.
            ConfigError: ``return_std`` was requested, but there is only one model.
            MoleculeInputError: a molecule cannot be used; the message names it.
        """
        found = self._predictions(X)
        if not return_std:
            return self._shaped(found.values)
        if np.isnan(found.seed_std).all() and not np.isnan(found.values).all():
            raise ConfigError("return_std needs several models, but this estimator has one: fit it with seeds=3")
        return self._shaped(found.values), self._shaped(found.seed_std)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:  # noqa: ANN401
        """Return R²; for several targets, its mean over them.

        Missing labels are left out. With ``handle_invalid="nan"`` molecules that cannot be used are left out with a
        warning.

        Raises:
            NotFittedError: ``fit`` was not called.
            MoleculeInputError: a target has no labels, the number of targets differs from that in ``fit``, or a
                molecule cannot be used.
        """
        found = self._predictions(X)
        values, _ = table_of_labels(y, len(found))
        labels_ML = as_numbers(values).reshape(len(found), -1)
        if labels_ML.shape != found.values.shape:
            raise MoleculeInputError(
                f"y: {labels_ML.shape[1]} targets, but the estimator was fitted to {found.values.shape[1]}"
            )
        usable_M = known_rows(found, len(found))
        scores = []
        for label_M, value_M in zip(labels_ML.T, found.values.T, strict=True):
            there_M = usable_M & ~np.isnan(label_M)
            weight = None if sample_weight is None else np.asarray(sample_weight)[there_M]
            if not there_M.any():
                raise MoleculeInputError("y: a target has no labels, so it cannot be scored")
            scores.append(r2_score(label_M[there_M], value_M[there_M], sample_weight=weight))
        return float(np.mean(scores))

    @classmethod
    def from_folder(cls, folder: "str | PathLike[str]", **parameters: Any) -> "MoleculeRegressor":  # noqa: ANN401
        """Open a folder that ``unimol-scale finetune``, ``us.finetune`` or ``fit`` wrote as a fitted estimator.

        Args:
            folder: folder of the fine-tuned model; its files stay there.
            parameters: parameters of the estimator, such as ``device`` and ``handle_invalid``. The settings of the
                fine-tuning are not read from the folder; a new ``fit`` uses these parameters.

        Raises:
            CheckpointError: the folder is not a fine-tuned model, or is damaged.
            ConfigError: the model is a classifier.
        """
        opened: MoleculeRegressor = cls._open(folder, parameters)
        return opened

    def _take(self, fitted: FinetunedFolder, config: FinetunedConfig, known: Mapping[str, Any]) -> None:
        super()._take(fitted, config, known)
        self._single = bool(known.get("single", len(config.targets) == 1))

    def _shaped(self, value_ML: Float64) -> Float64:
        return value_ML[:, 0] if self._single else value_ML
