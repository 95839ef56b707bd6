"""What the first rank tells the others to fit with it."""

from dataclasses import dataclass

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold


@dataclass(frozen=True, kw_only=True)
class FitJob:
    """One training, which all ranks share.

    Attributes:
        fold: of the cross-validation that it belongs to; None of a single split.
        config: of the training, such as a trial of a search.
        split: rows that are learnt, and rows that choose the epoch.
        seed: of the model.
    """

    fold: Fold | None
    config: FinetuneConfig
    split: DataSplit
    seed: int
