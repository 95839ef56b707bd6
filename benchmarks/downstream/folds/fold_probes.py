"""Linear models on the vectors of frozen models, cross-validated on the folds of the starts.

A ridge regression, or a logistic regression of each target, on the vectors of a pooling (``--pooling``), each channel
scaled by the training rows. The penalty of a fold is the one with the best score of its validation rows.

Shapes: M rows, R rows to predict, D channels, L targets, P penalties.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from benchmarks.downstream.folds.fold_data import FoldData, SetRows, write_fold_result
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.downstream.comparison.fold_results import FoldResult
from unimol_scale.downstream.config import Pooling
from unimol_scale.downstream.data.inputs import choose_inputs
from unimol_scale.downstream.data.pretraining_data import pretrained_with_hydrogens
from unimol_scale.downstream.data.splitting.parts import DataSplit
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent
from unimol_scale.downstream.finetuning.probe.kept_vectors import kept_vectors
from unimol_scale.downstream.finetuning.probe.linear_models import (
    LOGISTIC_PENALTIES,
    RIDGE_PENALTIES,
    choose,
    fit_logistic,
    fit_ridge,
)
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.store.schema import Float32, Float64

SCRATCH_SEED = 0


@dataclass(frozen=True, kw_only=True)
class FrozenModel:
    """What computes the vectors.

    Attributes:
        model: what the weights, or the dimensions, are of.
        reinitialise: random weights, one draw for all folds.
        pooling: how atoms become the vector of a molecule.
    """

    model: str
    reinitialise: bool
    pooling: Pooling = "mean"

    @property
    def sha256(self) -> str:
        """Of the weights; of random ones, what they depend on. A pooling other than the mean is a prefix."""
        identity = identify(self.model)
        weights = f"random-{SCRATCH_SEED}-{identity.sha256}" if self.reinitialise else identity.sha256
        return weights if self.pooling == "mean" else f"{self.pooling}-{weights}"

    def backbone(self) -> TwoTrackBackbone:
        """Return the model in evaluation mode."""
        if not self.reinitialise:
            return load_pretrained(self.model).float().backbone.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SCRATCH_SEED)
            return TwoTrackBackbone(identify(self.model).model).eval()

    def kept(self, path: Path, data: SetRows) -> Float32:
        """Return the vectors of all rows that a file has; compute and keep them if it has not."""
        return kept_vectors(path, self.sha256, data.rows.molecules.smiles, lambda: self.vectors(data))

    def vectors(self, data: SetRows) -> Float32:
        """Return the vectors [M, D] of all rows, NaN of unusable ones; the model is shown what fine-tuning shows."""
        identity, backbone = identify(self.model), self.backbone()
        chosen = choose_inputs(None, identity.model, identity.seen)
        rows = data.seen(geometry=chosen.inputs != "2d", hydrogens=bool(pretrained_with_hydrogens(self.model)))
        row_R = np.flatnonzero(rows.usable_M)
        position_U, place_R = np.unique(rows.molecules.position_M[row_R], return_inverse=True)
        pieces = represent(
            backbone,
            rows.molecules.split,
            position_U,
            RepresentationConfig(pooling=self.pooling),
            seen=identity.seen,
            drop_hydrogens=rows.leaves_out_hydrogens,
        )
        vector_UD = np.stack([vector for piece in pieces for vector in piece])
        vector_MD = np.full((len(rows.usable_M), vector_UD.shape[1]), np.nan, np.float32)
        vector_MD[row_R] = vector_UD[place_R]
        return vector_MD


def fit_probe(
    name: str, folder: Path, data: FoldData, vectors: Callable[[], Float32], frozen: FrozenModel
) -> FoldResult:
    """Fit a linear model in every fold, and write the result as a fine-tuning by cross-validation does.

    Args:
        name: that it gets.
        folder: of the result.
        data: rows and folds.
        vectors: [M, D] of all rows.
        frozen: whose vectors they are.
    """
    vector_MD = vectors().astype(np.float64)
    predictions = [probe_predictions(vector_MD, data, split) for _, split in data.folds]
    start = Path(frozen.model).name + (" with random weights" if frozen.reinitialise else "")
    result = data.result(name, folder, predictions, start=f"{start}, frozen", sha256=frozen.sha256)
    write_fold_result(result)
    return result


def probe_predictions(vector_MD: Float64, data: FoldData, split: DataSplit) -> Float64:
    """Return the predictions of validation and test rows, [M, L], by the penalty that is best on validation."""
    train_ND = vector_MD[split.train]
    mean_D, std_D = train_ND.mean(0), train_ND.std(0)
    scaled_MD = (vector_MD - mean_D) / np.where(std_D > 0.0, std_D, 1.0)
    asked = np.concatenate([split.valid, split.test])
    labels_ML, task = data.rows.labels_ML, data.rows.task
    penalties = RIDGE_PENALTIES if task == "regression" else LOGISTIC_PENALTIES
    fit = fit_ridge if task == "regression" else fit_logistic
    paths = [fit(scaled_MD[split.train], labels_M[split.train], penalties) for labels_M in labels_ML.T]
    found_PRL = np.concatenate([path.outputs(scaled_MD[asked]) for path in paths], axis=2)
    if task != "regression":
        found_PRL = expit(found_PRL)
    best = choose(data.metric, labels_ML[split.valid], list(found_PRL[:, : len(split.valid)]))
    prediction_ML = np.full(labels_ML.shape, np.nan)
    prediction_ML[asked] = found_PRL[best]
    return prediction_ML
