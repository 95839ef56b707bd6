"""The history of a training: its epochs, the best one, and whether to stop."""

from dataclasses import dataclass, field

from unimol_scale.downstream.metric import Metric


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """Results of one epoch.

    Attributes:
        epoch: its number, from 1.
        loss: weighted loss of the labels, averaged over the training steps of the epoch.
        score: metric of the validation rows; for a regression with several targets, computed on scaled labels
            (``Scaling.comparable``).
        best: number of the best epoch so far.
        noise_loss: mean unweighted loss of predicting the noise (``NoisyNodes``); None if it is not predicted.
    """

    epoch: int
    loss: float
    score: float
    best: int
    noise_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class EpochHistory:
    """Epochs, and the rules by which the best one is kept.

    Attributes:
        metric: metric of the validation rows.
        patience: number of epochs without a better score after which training stops.
        epochs: the epochs so far, in order.
    """

    metric: Metric
    patience: int
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def best_score(self) -> float:
        """Score of the best epoch."""
        return self.epochs[self.epochs[-1].best - 1].score

    def add(self, loss: float, score: float, noise_loss: float | None = None) -> Epoch:
        """Append and return the results of the next epoch; its ``best`` is its own number if it is the best so far."""
        number = len(self.epochs) + 1
        better = not self.epochs or self.metric.is_better(score, self.best_score)
        best = number if better else self.epochs[-1].best
        self.epochs.append(Epoch(epoch=number, loss=loss, score=score, best=best, noise_loss=noise_loss))
        return self.epochs[-1]

    @property
    def should_stop(self) -> bool:
        """Whether ``patience`` epochs have passed since the best one."""
        return self.epochs[-1].epoch - self.epochs[-1].best >= self.patience
