"""What the processes of a fine-tuning tell each other."""

from dataclasses import dataclass

from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.model.epochs import Epoch
from unimol_scale.errors import UnimolScaleError


@dataclass(frozen=True, kw_only=True)
class FittingTask:
    """The first message to a process; a ``FitJob`` for each model follows.

    Attributes:
        config: settings of the fine-tuning.
        threads: number of threads to compute with.
    """

    config: FinetuneConfig
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
        error: one that a user can meet; None: a mistake in the program.
        text: the traceback of a mistake.
    """

    error: UnimolScaleError | None
    text: str = ""


Message = Stepped | Epoch | Ended | Failed
