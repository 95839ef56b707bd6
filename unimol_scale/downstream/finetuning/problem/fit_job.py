"""A training that the first rank asks the other ranks to share."""

from dataclasses import dataclass

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One training, which all ranks share.

    Attributes:
        fold: fold of the cross-validation; None for a single split.
        config: settings of the training, such as those of a trial of a search.
        split: rows to train on, and rows that choose the epoch.
        seed: seed of the model.
    """

    fold: Fold | None
    config: FinetuneConfig
    split: DataSplit
    seed: int
