"""Predictions of every model of a fine-tuning, with what says how far they can be believed.

Shapes: R rows with a molecule, L outputs (one a target, or a class of the only target), S seeds.
"""

from dataclasses import dataclass

from unimol_scale.downstream.data.molecules import Prepared
from unimol_scale.downstream.finetuning.confidence.belief import Belief
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig
from unimol_scale.store.schema import Float64, Int64


@dataclass(frozen=True, kw_only=True)
class SeedPredictions:
    """What each model of a fine-tuning predicts.

    Attributes:
        config: of the fine-tuned model.
        molecules: of the rows.
        row_R: int64, rows with a usable molecule, from 0.
        value_SRL: in the units of the targets, or probabilities of class 1, or of several classes those of each
            (``config.outputs``); means over conformers.
        conformer_std_SRL: their standard deviations over conformers, NaN of a molecule with one; None where one
            conformer was asked for.
        belief: intervals and neighbours of the rows.
        dropout_std_RL: standard deviation over draws of the head's dropout, as a mean over seeds; None: not asked for.
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
