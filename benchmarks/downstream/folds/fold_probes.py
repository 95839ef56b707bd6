"""Linear models on the vectors of frozen models, cross-validated on the folds of the starts.

A ridge regression, or a logistic regression of each target, on the mean of the atoms of the last layer, each channel
scaled by the training rows. The penalty of a fold is the one with the best score of its validation rows.

Shapes: M rows, N training rows, R rows to predict, D channels, L targets, P penalties.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression, Ridge

from benchmarks.downstream.folds.fold_data import FoldData, SetRows, write_fold_result
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.common.files import commit_file
from unimol_scale.downstream.comparison.fold_results import FoldResult
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.data.inputs import choose_inputs
from unimol_scale.downstream.data.pretraining_data import pretrained_with_hydrogens
from unimol_scale.downstream.data.splitting.parts import DataSplit
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent
from unimol_scale.downstream.metrics import score
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.store.schema import Float32, Float64

# Fixed before any score; the best on validation is hardly ever at an end.
RIDGE_PENALTIES = tuple(10.0**power for power in range(-2, 6))
LOGISTIC_PENALTIES = tuple(10.0**power for power in range(-2, 5))  # 1/C of scikit-learn
SCRATCH_SEED = 0
_MOST_ITERATIONS = 2000


@dataclass(frozen=True, kw_only=True)
class FrozenModel:
    """What computes the vectors.

    Attributes:
        model: what the weights, or the dimensions, are of.
        reinitialise: random weights, one draw for all folds.
    """

    model: str
    reinitialise: bool

    @property
    def sha256(self) -> str:
        """Of the weights; of random ones, what they depend on."""
        identity = identify(self.model)
        return f"random-{SCRATCH_SEED}-{identity.sha256}" if self.reinitialise else identity.sha256

    def backbone(self) -> TwoTrackBackbone:
        """Return the model in evaluation mode."""
        if not self.reinitialise:
            return load_pretrained(self.model).float().backbone.eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SCRATCH_SEED)
            return TwoTrackBackbone(identify(self.model).model).eval()

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
            RepresentationConfig(),
            seen=identity.seen,
            drop_hydrogens=rows.leaves_out_hydrogens,
        )
        vector_UD = np.stack([vector for piece in pieces for vector in piece])
        vector_MD = np.full((len(rows.usable_M), vector_UD.shape[1]), np.nan, np.float32)
        vector_MD[row_R] = vector_UD[place_R]
        return vector_MD


def kept_vectors(path: Path, frozen: FrozenModel, data: SetRows) -> Float32:
    """Return the vectors that a file has of these weights and molecules; compute and keep them if it has not.

    Args:
        path: .npz of one start and set.
        frozen: computes them.
        data: the molecules.
    """
    smiles = np.array(data.rows.molecules.smiles)
    if path.is_file():
        with np.load(path) as kept:
            if str(kept["sha256"]) == frozen.sha256 and np.array_equal(kept["smiles"], smiles):
                return np.asarray(kept["vectors"], np.float32)
    vector_MD = frozen.vectors(data)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, sha256=frozen.sha256, smiles=smiles, vectors=vector_MD)

    path.parent.mkdir(parents=True, exist_ok=True)
    commit_file(path, write)
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
    found_PRL = np.stack(
        [
            _fitted(task, scaled_MD[split.train], labels_ML[split.train, at], scaled_MD[asked], penalties)
            for at in range(labels_ML.shape[1])
        ],
        axis=2,
    )
    sign = 1.0 if data.metric.higher_is_better else -1.0
    valid_PRL = found_PRL[:, : len(split.valid)]
    worth = [score(data.metric, labels_ML[split.valid], valid_RL).value for valid_RL in valid_PRL]
    best = max(range(len(penalties)), key=lambda at: -np.inf if worth[at] is None else sign * worth[at])
    prediction_ML = np.full(labels_ML.shape, np.nan)
    prediction_ML[asked] = found_PRL[best]
    return prediction_ML


def _fitted(task: Task, train_ND: Float64, label_N: Float64, asked_RD: Float64, penalties: Sequence[float]) -> Float64:
    """Return what the model of each penalty predicts of one target, [P, R]."""
    known_N = ~np.isnan(label_N)
    train_ND, label_N = train_ND[known_N], label_N[known_N]
    assert len(label_N), "every target has a training label in every fold"
    if np.ptp(label_N) == 0.0:  # a class alone
        return np.full((len(penalties), len(asked_RD)), label_N[0])
    found = []
    for penalty in penalties:
        if task == "regression":
            found.append(Ridge(alpha=penalty).fit(train_ND, label_N).predict(asked_RD))
        else:
            model = LogisticRegression(C=1.0 / penalty, max_iter=_MOST_ITERATIONS).fit(train_ND, label_N)
            found.append(model.predict_proba(asked_RD)[:, 1])
    return np.stack(found)
