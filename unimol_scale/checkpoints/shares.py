"""The state of a run on disk: weights and optimizer states of every parameter, in one file a rank.

A rank owns fragments: runs of elements of flattened parameters. The fragments of all ranks cover every parameter exactly
once, so a state written by any number of ranks under any ZeRO stage can be read by any other: a reader asks for a run of
elements and gets it from whichever files hold it. Files are safetensors, never pickle.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

# What is kept of an element: the fp32 master weight, AdamW's two moments and, if a run averages its weights, the mean.
WEIGHT, MOMENT, SQUARE, MEAN = "weight", "exp_avg", "exp_avg_sq", "ema"


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A run of elements of one flattened parameter.

    Attributes:
        name: of the parameter, as ``named_parameters`` gives it.
        start: its first element.
        states: kind (``WEIGHT`` …) → fp32 [number of elements].
    """

    name: str
    start: int
    states: Mapping[str, Tensor]

    @property
    def stop(self) -> int:
        """The element after the last."""
        return self.start + len(next(iter(self.states.values())))
