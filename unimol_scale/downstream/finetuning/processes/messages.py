"""What the processes of a fine-tuning tell each other."""

from dataclasses import dataclass

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning.finetuning_folder import InputHashes
from unimol_scale.downstream.finetuning.model.epochs import Epoch


@dataclass(frozen=True, kw_only=True)
class FittingTask:
    """The first message to a process; a ``FitJob`` for each model follows.

    Attributes:
        config: settings of the fine-tuning.
        hashes: hashes of the data and the weights, which must not have changed.
        splits: fold and split of every problem.
        threads: number of threads to compute with.
    """

    config: FinetuneConfig
    hashes: InputHashes
    splits: tuple[tuple[Fold | None, DataSplit], ...]
    threads: int


@dataclass(frozen=True)
class Stepped:
    """A step is done."""


@dataclass(frozen=True)
class Ended:
    """The model is fitted, and its files are written."""


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The model could not be fitted.

    Attributes:
        error: one that commands explain to their users; None: a mistake in the program.
        text: the traceback of a mistake.
    """

    error: Exception | None
    text: str = ""


Message = Stepped | Epoch | Ended | Failed
