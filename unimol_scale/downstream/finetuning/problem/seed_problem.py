"""What the model of every seed of a split is fitted to. Shapes: M rows, R of some part, L targets."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from unimol_scale.data.input_views import InputView
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.batches import RowReader, SampleMaker
from unimol_scale.downstream.data.pretraining_data import PretrainingStore
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning.atom_references import FittedReferences
from unimol_scale.downstream.finetuning.cautions import trivial_scores
from unimol_scale.downstream.finetuning.finetuning_folder import InputHashes
from unimol_scale.downstream.finetuning.labelled_rows import Rows
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling
from unimol_scale.downstream.finetuning.model.training import TrainingProblem
from unimol_scale.downstream.labels.label_weights import loss_weights
from unimol_scale.downstream.metric import Metric
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.model.presets import ModelConfig
from unimol_scale.store.schema import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class StartingModel:
    """The model that the fine-tuning of every seed starts from.

    Attributes:
        model: its dimensions.
        backbone: pretrained weights; None starts from random ones.
        coordinate_head: the pretrained one; None: the model has none, or the weights are random.
        pretrained_on: the store of its pretraining, or why that is not known; None for random weights.
        masks: pretraining has hidden atoms from it, and it had to predict them.
    """

    model: ModelConfig
    backbone: TwoTrackBackbone | None
    coordinate_head: CoordinateHead | None
    pretrained_on: PretrainingStore | None
    masks: bool


@dataclass(frozen=True, kw_only=True)
class SeedProblem:
    """What every seed of one split is fitted to.

    Attributes:
        config: of the fine-tuning.
        rows: the data.
        split: of the rows.
        start: the model that training starts from.
        view: how molecules are shown to it.
        metric: of validation and test.
        device: to compute on.
        hashes: of data and weights.
        references: target → energies of the elements, fitted to the training rows and taken off the labels of all.
        fold: whose split it is; None for a single split.
        ranks: that share every training; None: this process is alone.
    """

    config: FinetuneConfig
    rows: Rows
    split: DataSplit
    start: StartingModel
    view: InputView
    metric: Metric
    device: torch.device
    hashes: InputHashes
    references: Mapping[str, FittedReferences] = field(default_factory=dict)
    fold: Fold | None = None
    ranks: Ranks | None = None

    @property
    def make_sample(self) -> SampleMaker:
        """Turns rows into what the model sees."""
        return SampleMaker(view=self.view, model=self.start.model)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Rows of train, valid and test that are used, and of calibration, if any are set aside."""
        return {name: len(row_R) for name, row_R in self.split.parts.items()}

    @property
    def scaling(self) -> Scaling:
        """Of the training labels."""
        rows, transforms = self.rows, self.config.transforms_of(self.rows.targets)
        each = tuple(transforms.get(target, "none") for target in rows.targets) if transforms else ()
        return Scaling.of(rows.learnt_ML[self.split.train], rows.task, rows.outputs.num_classes, each)

    @property
    def weight_RL(self) -> Float64 | None:
        """What the loss of each training label is multiplied by; None: all weigh the same."""
        rows, train = self.rows, self.split.train
        row_weight_R = None if rows.weight_M is None else rows.weight_M[train]
        return loss_weights(rows.learnt_ML[train], row_weight_R, self.config.class_weights)

    @property
    def trivial(self) -> tuple[float | None, ...]:
        """Score of predicting the mean of the training labels, or the shares of their classes, [L]."""
        labels_ML = self.rows.learnt_ML
        train_RL, test_RL = labels_ML[self.split.train], labels_ML[self.split.test]
        return trivial_scores(self.metric, train_RL, test_RL, self.rows.outputs.num_classes)

    @property
    def training(self) -> TrainingProblem:
        """What a model is trained on, and by what its epochs are judged."""
        config, bounds = self.config, self.rows.learnt_bounds
        return TrainingProblem(
            train=self.reader(self.split.train, bounded=True),
            valid=self.reader(self.split.valid),
            make_sample=self.make_sample,
            scaling=self.scaling,
            loss=config.loss or "mse",
            metric=self.metric,
            weight_RL=self.weight_RL,
            side_RL=None if bounds is None else bounds.side_ML[self.split.train],
        )

    def reader(self, row_R: Int64, *, bounded: bool = False) -> RowReader:
        """Return a reader of some rows; ``bounded``: labels that are censored are their bounds instead of NaN."""
        rows = self.rows
        labels_ML = rows.learnt_ML
        if bounded and (bounds := rows.learnt_bounds) is not None:
            labels_ML = np.where(np.isnan(labels_ML), bounds.bound_ML, labels_ML)
        return RowReader(
            rows.molecules.split,
            rows.molecules.position_M[row_R],
            labels_ML[row_R],
            drop_hydrogens=rows.leaves_out_hydrogens,
            conformers=self.config.conformers,
        )
