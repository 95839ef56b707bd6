"""What a branch drops in training, as the Triton kernels draw it: by the place of a value, without any state."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# A branch draws from streams of its own: its dropout, whether it is left out, and what is dropped inside of it.
INNER_STREAM, STREAMS_PER_BRANCH, STREAMS_PER_LAYER = 2, 4, 32
_WORDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Dropping:
    """Dropout of a tensor, and of its whole branch for single molecules (Huang et al., 1603.09382).

    Attributes:
        rate: probability that a value is dropped.
        path: probability that the branch is left out for a molecule.
        seed: int64 [1], of the micro-batch, on its device; None where nothing is dropped.
        stream: tells the draws of one seed apart.
    """

    rate: float = 0.0
    path: float = 0.0
    seed: Tensor | None = None
    stream: int = 0

    def constants(self) -> dict[str, float]:
        """Return what a kernel is compiled with: the 32 random bits below which a value is dropped, and factors."""
        return {
            "THRESHOLD": round(self.rate * _WORDS),
            "SCALE": 1.0 / (1.0 - self.rate),
            "PATH_THRESHOLD": round(self.path * _WORDS),
            "PATH_SCALE": 1.0 / (1.0 - self.path),
        }

    def of_values(self) -> dict[str, float]:
        """Return those of them that concern single values."""
        return {name: value for name, value in self.constants().items() if not name.startswith("PATH")}

    def of_branch(self, layer: int, branch: int, rate: float, path: float) -> "Dropping":
        """Return what a branch of a layer drops."""
        stream = STREAMS_PER_LAYER * layer + STREAMS_PER_BRANCH * branch
        return replace(self, rate=rate, path=path, stream=stream)

    def inside(self, rate: float) -> "Dropping":
        """Return the dropout of a tensor inside of this branch."""
        return replace(self, rate=rate, path=0.0, stream=self.stream + INNER_STREAM)


NOTHING = Dropping()


@dataclass(frozen=True, kw_only=True)
class NodeDroppings:
    """What the three branches that begin with a layer's nodes drop.

    Attributes:
        attention: dropout of its update.
        attention_weights: dropout inside of it.
        feed_forward: dropout of its update.
        activation: dropout inside of it.
        outer_product: dropout of its update, of pairs.
    """

    attention: Dropping = NOTHING
    attention_weights: Dropping = NOTHING
    feed_forward: Dropping = NOTHING
    activation: Dropping = NOTHING
    outer_product: Dropping = NOTHING


def draw_seed(like: Tensor) -> Tensor:
    """Return a seed from torch's generator of that device, int64 [1]; the host does not wait for it."""
    return torch.randint(2**62, (1,), device=like.device)
