"""The data, starting model and metric that the models of all seeds of a split share.

Shapes: M rows, R rows of one part of the split, L targets.
"""

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
        model: dimensions of the model.
        backbone: backbone with pretrained weights; None: random weights.
        coordinate_head: pretrained coordinate head; None: the model has none, or the weights are random.
        pretrained_on: the pretraining store, or the reason why it is unknown; None for random weights.
        masks: whether the model had to predict hidden atoms in pretraining.
    """

    model: ModelConfig
    backbone: TwoTrackBackbone | None
    coordinate_head: CoordinateHead | None
    pretrained_on: PretrainingStore | None
    masks: bool


@dataclass(frozen=True, kw_only=True)
class SeedProblem:
    """Data, starting model and metric that the models of all seeds of one split share.

    Attributes:
        config: settings of the fine-tuning.
        rows: the data.
        split: split of the rows.
        start: model that training starts from.
        view: form in which molecules are shown to the model.
        metric: metric of validation and test.
        device: device to compute on.
        hashes: hashes of the data and the weights.
        references: target → energies of the elements, fitted to the training rows and subtracted from all labels.
        fold: fold that the split belongs to; None for a single split.
        ranks: ranks that share every training; None: there is only this process.
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

    def name_of(self, seed: int) -> str:
        """Return what messages call the model of a seed."""
        of_fold = [] if self.fold is None else [str(self.fold)]
        of_seed = [f"seed {seed}"] if self.fold is None or self.config.num_seeds > 1 else []
        return ", ".join([self.rows.name, *of_fold, *of_seed])

    @property
    def make_sample(self) -> SampleMaker:
        """Converts rows into the input of the model."""
        return SampleMaker(view=self.view, model=self.start.model)

    @property
    def split_sizes(self) -> dict[str, int]:
        """Numbers of used rows in train, valid and test, and in calibration if rows are set aside for it."""
        return {name: len(row_R) for name, row_R in self.split.parts.items()}

    @property
    def scaling(self) -> Scaling:
        """Scaling of the labels, from the training rows."""
        rows, transforms = self.rows, self.config.transforms_of(self.rows.targets)
        each = tuple(transforms.get(target, "none") for target in rows.targets) if transforms else ()
        return Scaling.of(rows.learnt_ML[self.split.train], rows.task, rows.outputs.num_classes, each)

    @property
    def weight_RL(self) -> Float64 | None:
        """Factor on the loss of each training label, float64 [R, L]; None: equal weights."""
        rows, train = self.rows, self.split.train
        row_weight_R = None if rows.weight_M is None else rows.weight_M[train]
        return loss_weights(rows.learnt_ML[train], row_weight_R, self.config.class_weights)

    @property
    def trivial(self) -> tuple[float | None, ...]:
        """[L] test scores of predicting the mean of the training labels, or the class frequencies; None: undefined."""
        labels_ML = self.rows.learnt_ML
        train_RL, test_RL = labels_ML[self.split.train], labels_ML[self.split.test]
        return trivial_scores(self.metric, train_RL, test_RL, self.rows.outputs.num_classes)

    @property
    def training(self) -> TrainingProblem:
        """Data, loss and weights of a training, and the rows and metric that choose its best epoch."""
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
        """Return a reader of some rows; if ``bounded``, a censored label is its bound instead of NaN."""
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
