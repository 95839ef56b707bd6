"""Predictions of every model of a fine-tuning, with their intervals, nearest training molecules and spreads.

Shapes: R rows with a molecule, L outputs (one per target, or one per class of the only target), S seeds.
"""

from dataclasses import dataclass

from unimol_scale.downstream.data.molecules import Prepared
from unimol_scale.downstream.finetuning.confidence.belief import Belief
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig
from unimol_scale.store.schema import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class SeedPredictions:
    """Predictions of each model of a fine-tuning.

    Attributes:
        config: configuration of the fine-tuned model.
        molecules: molecules of the rows.
        row_R: int64, rows with a usable molecule, counted from 0.
        value_SRL: float64, values in the units of the targets, or probabilities of class 1, or, with more than two
            classes, of each class (``config.outputs``); means over conformers.
        conformer_std_SRL: float64, standard deviations of these values over conformers, NaN for a molecule with one
            conformer; None if one conformer was requested.
        belief: intervals and nearest training molecules of the rows.
        dropout_std_RL: float64, standard deviations over draws of the head's dropout, as means over seeds; None: not
            requested.
    """

    config: FinetunedConfig
    molecules: Prepared
    row_R: Int64
    value_SRL: Float64
    conformer_std_SRL: Float64 | None
    belief: Belief
    dropout_std_RL: Float64 | None = None

    @property
    def conformer_std_RL(self) -> Float64 | None:
        """Standard deviation over conformers, as a mean over seeds."""
        return None if self.conformer_std_SRL is None else self.conformer_std_SRL.mean(0)
