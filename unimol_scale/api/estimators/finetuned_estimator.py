"""The base of regressor and classifier: parameters, ``fit`` by fine-tuning, predictions. Imports torch and RDKit.

Shapes: M molecules, L targets.
"""

import contextlib
import csv
import re
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from unimol_scale.api.estimators.estimator_inputs import (
    check_handling,
    molecules_of,
    refuse_unusable,
    warn_of_unusable,
)
from unimol_scale.api.estimators.fitted_folder import ESTIMATOR_NAME, FinetunedFolder
from unimol_scale.api.finetuned_model import finetune, predict
from unimol_scale.api.molecule_inputs import SMILES
from unimol_scale.api.predictions.molecule_predictions import MoleculePredictions
from unimol_scale.checkpoints.shipped import DEFAULT_MODEL
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.common.trees import flatten
from unimol_scale.downstream.data.skipped_rows import UnusableRowsError
from unimol_scale.downstream.embedding.molecular_model import DEFAULT_CACHE, MolecularModel
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig, read_config
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.downstream.finetuning.row_parts import ONE_OF_SEVERAL
from unimol_scale.errors import CheckpointError, ConfigError, UnimolScaleError, nearest
from unimol_scale.store.schema import Float64

VALIDATION_SPLITS = ("random", "scaffold", "scaffold-similarity", "cluster")  # those that need nothing but SMILES
# Setting of a fine-tuning → the parameter that sets it.
_NAMED = {
    "train.epochs": "epochs",
    "train.learning_rate": "learning_rate",
    "train.batch_size": "batch_size",
    "inputs": "inputs",
    "conformers": "conformers",
}
# Settings that the estimator sets itself → what to do instead of giving them.
_DECIDED = {
    **dict.fromkeys(("data", "smiles_column", "targets"), "give X and y to fit"),
    "pretrained": "give the parameter pretrained",
    "weight_column": "give sample_weight to fit",
    "task": "use MoleculeRegressor or MoleculeClassifier",
    **dict.fromkeys(
        ("split", "split_column", "split_file", "split_parts", "valid_rows", "fractions", "split_sizes"),
        "fit uses all rows given to it; use the parameters validation_fraction and validation_split",
    ),
    **dict.fromkeys(("folds", "repeats"), "use scikit-learn's cross_validate"),
    "seeds": "give the parameter seeds",
    "seed": "give the parameter random_state",
    "output": "give the parameter folder",
    "skip_bad": "give the parameter handle_invalid",
    "cache": "give the parameter cache",
    "device": "give the parameter device",
    "baselines": "fit has no test rows to compare them on; us.finetune has",
}
_OWN_TABLE = re.compile(r"\S*molecules-[0-9a-f]{8}\.csv")  # the table to which ``finetune`` writes data in memory


class FinetunedEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator whose ``fit`` is a fine-tuning: ``MoleculeRegressor`` or ``MoleculeClassifier``."""

    _tasks: ClassVar[tuple[str, ...]] = ()

    def __init__(  # noqa: PLR0913 - all but one are named by the caller
        self,
        pretrained: "str | PathLike[str] | None" = DEFAULT_MODEL,
        *,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        seeds: int = 1,
        inputs: str | None = None,
        conformers: int | None = None,
        validation_fraction: float = 0.1,
        validation_split: str = "random",
        settings: Mapping[str, Any] | None = None,
        handle_invalid: str = "raise",
        random_state: Any = 0,  # noqa: ANN401 - as scikit-learn has it
        folder: "str | PathLike[str] | None" = None,
        cache: "str | PathLike[str] | None" = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        """Store the parameters; ``fit`` checks them.

        Args:
            pretrained: where training starts: the name of a model that comes with the package, a run, a checkpoint, an
                exported model, a released file, or ``owner/name`` on the Hugging Face hub; None: random weights of the
                preset that ``settings`` names as ``size``.
            epochs: largest number of passes over the training rows; None: 30 for models of a width up to 256, as of the
                models in the package, and 60 for larger ones. The best epoch is kept.
            learning_rate: peak learning rate of AdamW; None: 5e-4 for models of a width up to 256, and 1e-4 for larger
                ones.
            batch_size: molecules per step; None: 32.
            seeds: number of models to fit. They differ in initialisation and order of rows; predictions are averaged.
            inputs: what the model sees, "2d", "3d" or "2d+3d"; None: the richest input that it was pretrained on.
            conformers: number of conformers per molecule; an epoch sees one of them, and predictions are averaged over
                all. None: 1.
            validation_fraction: fraction of the rows given to ``fit`` that is used to choose the best epoch, not to
                train.
            validation_split: "random" (stratified by class), "scaffold", "scaffold-similarity" or "cluster".
            settings: any other setting of ``us.finetune`` by its dotted key, such as ``{"train.patience": 5}``.
            handle_invalid: what to do with molecules that cannot be used: "raise" an error that names them; or "nan":
                leave them out of ``fit`` with a warning, and predict NaN for them.
            random_state: seed of the validation rows and of the first model; None: a new seed in every fit.
            folder: folder in which models and report are kept, for one fit only; None: a private folder, which is
                removed together with the estimator.
            cache: folder in which conformers are kept; None: data/cache.
            device: "auto", "cpu" or "cuda".
            verbose: show messages and bars on standard error.
        """
        self.pretrained = pretrained
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.seeds = seeds
        self.inputs = inputs
        self.conformers = conformers
        self.validation_fraction = validation_fraction
        self.validation_split = validation_split
        self.settings = settings
        self.handle_invalid = handle_invalid
        self.random_state = random_state
        self.folder = folder
        self.cache = cache
        self.device = device
        self.verbose = verbose

    @property
    def folder_(self) -> Path:
        """Folder of the fine-tuned models, which ``us.predict`` and ``unimol-scale predict`` accept."""
        check_is_fitted(self)
        path: Path = self._fitted.path
        return path

    def _fit(
        self,
        X: list[str],
        labels_ML: Float64,
        targets: tuple[str, ...],
        task: str,
        known: Mapping[str, Any],
        weight_M: Float64 | None,
    ) -> None:
        """Fine-tune, and set the attributes of a fitted estimator.

        Args:
            X: [M] SMILES.
            labels_ML: labels, NaN for missing ones.
            targets: [L] names of the targets.
            task: kind of the labels.
            known: what to remember about the labels as they were given (``estimator.json``).
            weight_M: weights of the rows in the loss; None: equal weights.
        """
        settings = self._settings(task)
        if isinstance(self.pretrained, MolecularModel):
            raise ConfigError(
                "pretrained: expected the name or path of a model, because clones and pickles must not hold its "
                f"weights, got a loaded model; give {self.pretrained.source or 'the folder in which it is saved'!r}"
            )
        fitted = FinetunedFolder(None if self.folder is None else Path(fspath(self.folder)))
        columns = {SMILES: X, **{name: labels_ML[:, at].tolist() for at, name in enumerate(targets)}}
        try:
            with _of_fit():
                done = finetune(
                    self.pretrained,
                    columns,
                    target=targets,
                    weights=weight_M,
                    output=fitted.path,
                    progress=bool(self.verbose),
                    settings=settings,
                )
        except UnusableRowsError as error:
            refuse_unusable([(one.row, one.smiles, one.reason) for one in error.skipped], len(X))
        warn_of_unusable(_skipped_rows(fitted.path), len(X), "they were left out of the fit")
        write_json(fitted.path / ESTIMATOR_NAME, known)
        self._take(fitted, read_config(fitted.path), known)
        self.result_: FinetuneResult | None = done.result

    def _take(self, fitted: FinetunedFolder, config: FinetunedConfig, known: Mapping[str, Any]) -> None:
        """Set the attributes of a fitted estimator."""
        self._fitted = fitted
        self.target_names_ = config.targets

    def _settings(self, task: str) -> dict[str, Any]:
        """Return the settings of the fine-tuning; check the estimator's own parameters."""
        check_handling(self.handle_invalid)
        if self.validation_split not in VALIDATION_SPLITS:
            raise ConfigError(
                f"validation_split: unknown value {self.validation_split!r}; "
                f"{nearest(self.validation_split, VALIDATION_SPLITS)}"
            )
        if not 0.0 < self.validation_fraction < 1.0:
            raise ConfigError(f"validation_fraction must be between 0 and 1, got {self.validation_fraction}")
        of_classes = self.validation_split == "random" and task in ONE_OF_SEVERAL
        split = "stratified" if of_classes else self.validation_split
        named = {key: getattr(self, name) for key, name in _NAMED.items() if getattr(self, name) is not None}
        more = {} if self.settings is None else self.settings
        if not isinstance(more, Mapping):
            raise ConfigError(f'settings: expected a mapping such as {{"train.patience": 5}}, got {more!r}')
        for key in flatten(more):
            if key in _DECIDED:
                raise ConfigError(f"settings: {key} is set by the estimator: {_DECIDED[key]}")
            if key in named:
                raise ConfigError(
                    f"settings: {key} is also given as the parameter {_NAMED[key]}; give only one of them"
                )
        return {
            "domain": False,  # estimators do not return it; ``settings`` can turn it on for ``us.predict(folder_, …)``
            **more,
            **named,
            "smiles_column": SMILES,
            "task": task,
            "split": split,
            "fractions": [1.0 - self.validation_fraction, self.validation_fraction, 0.0],
            "seeds": self.seeds,
            "seed": self._seed(),
            "skip_bad": self.handle_invalid == "nan",
            "cache": self._cache,
            "device": self.device,
            "baselines": False,
        }

    @property
    def _cache(self) -> Path:
        return DEFAULT_CACHE if self.cache is None else Path(fspath(self.cache))

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _predictions(self, X: Any) -> MoleculePredictions:  # noqa: ANN401
        """Return the predictions of the models; NaN for unusable molecules if ``handle_invalid="nan"``.

        Raises:
            MoleculeInputError: there are no molecules, or one cannot be used.
        """
        check_is_fitted(self)
        check_handling(self.handle_invalid)
        texts = molecules_of(X, sees_3d=self.inputs != "2d")
        found = predict(
            self._fitted.path,
            texts,
            cache=self._cache,
            device=self.device,  # type: ignore[arg-type]
            domain=False,  # estimators do not return it
            progress=bool(self.verbose),
        )
        if self.handle_invalid == "raise":
            bad = np.flatnonzero(found.reasons != "").tolist()
            refuse_unusable([(row, texts[row], found.reasons[row]) for row in bad], len(texts))
        return found

    @classmethod
    def _open(cls, folder: "str | PathLike[str]", parameters: Mapping[str, Any]) -> Any:  # noqa: ANN401
        """Return a fitted estimator from a folder that ``finetune`` or an estimator wrote."""
        path = Path(fspath(folder))
        config = read_config(path)
        if config.task not in cls._tasks:
            raise ConfigError(
                f"{path} holds a model for {config.task}, but {cls.__name__} is for {' or '.join(cls._tasks)}; open it "
                "with the other estimator"
            )
        estimator = cls(**parameters)
        estimator._take(FinetunedFolder(path), config, _known(path))
        estimator.result_ = results.read(path)
        return estimator

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = self.handle_invalid == "nan"
        tags.target_tags.multi_output = True
        return tags


def known_rows(found: MoleculePredictions, total: int) -> Any:  # noqa: ANN401
    """Return which molecules have a prediction, bool [M]; warn of the others, which the score leaves out."""
    bad = np.flatnonzero(found.reasons != "").tolist()
    warn_of_unusable([(row, found.smiles[row], found.reasons[row]) for row in bad], total, "the score leaves them out")
    return found.reasons == ""


def _skipped_rows(folder: Path) -> list[tuple[int, str, str]]:
    """Return row (from 0), text and reason of each molecule that the fine-tuning left out."""
    path = folder / "skipped.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [(int(row["row"]) - 1, row["smiles"], row["reason"]) for row in csv.DictReader(file)]


def _known(folder: Path) -> dict[str, Any]:
    """Return what an estimator recorded about the labels; empty if the folder was not written by an estimator."""
    path = folder / ESTIMATOR_NAME
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except (OSError, NotJsonError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


@contextlib.contextmanager
def _of_fit() -> Iterator[None]:
    """Make messages refer to the data given to fit, not to the table to which it was written."""
    try:
        yield
    except UnimolScaleError as error:
        error.args = (_OWN_TABLE.sub("the data given to fit", str(error)).replace("another output", "another folder"),)
        raise
