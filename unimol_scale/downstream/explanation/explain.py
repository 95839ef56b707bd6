"""Explains predictions of a fine-tuned model by a value for every atom of every molecule and every target.

Shapes: M rows, A atoms of a molecule, W outputs (``Outputs``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np

from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.progress import StageProgress
from unimol_scale.downstream.data.batches import RowReader
from unimol_scale.downstream.data.skipped_rows import Skipped
from unimol_scale.downstream.depiction import lenient_molecule
from unimol_scale.downstream.explanation.occlusion import NOTHING, predict_with_hidden
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig, read_config
from unimol_scale.downstream.finetuning.predict import AskedRows, PredictOptions, asked_rows
from unimol_scale.errors import SourceError
from unimol_scale.store.schema import Float64

_SURE = 1e-6  # probabilities are clipped to this distance from 0 and 1, so that their log-odds are finite
_NO_MASK = (
    "do not rely on the values of atoms, or fine-tune a model that was pretrained by denoising with masked atoms."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class ExplainedMolecule:
    """The contribution of each atom of a molecule to its predictions.

    Attributes:
        row: row of the input, from 1.
        smiles: canonical SMILES; atoms are in its order.
        prediction_W: predictions, in the units of the targets, or probabilities.
        attribution_AW: the prediction minus the prediction with the atom and its hydrogens hidden, in the units of the
            target, or in log-odds for classes. A positive value means that the atom raises the prediction. The values
            do not add up to the prediction.
    """

    row: int
    smiles: str
    prediction_W: Float64
    attribution_AW: Float64

    @property
    def elements(self) -> tuple[str, ...]:
        """[A] element symbols."""
        return tuple(atom.GetSymbol() for atom in lenient_molecule(self.smiles).GetAtoms())


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanations:
    """Explained predictions.

    Attributes:
        config: settings of the fine-tuned model.
        molecules: the explained molecules, in the order of the rows.
        skipped: rows that cannot be used.
        notes: cautions for the reader.
    """

    config: FinetunedConfig
    molecules: tuple[ExplainedMolecule, ...]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...] = ()


def explain_molecules(source: Path | Sequence[str], folder: Path, **options: Unpack[PredictOptions]) -> Explanations:
    """Explain the predictions of a fine-tuned model for molecules.

    Args:
        source: SMILES; or the path of a table, SMILES lines, SDF or conformer store.
        folder: folder that ``finetune`` wrote.
        options: options of a prediction; coverage and domain are ignored.

    Raises:
        SourceError: a file is missing or wrong, a molecule is unusable and ``skip_bad`` is False, or all are unusable.
        CheckpointError: the folder is not a fine-tuned model, or a file in it is damaged.
        ConfigError: the device does not exist.
        StoreError: the store is damaged, or holds 2D depictions but the model needs conformers.
        RunError: a prediction is not a finite number.
    """
    config = read_config(folder)
    device = pick_device(options["device_name"])
    asked = asked_rows(source, config, options)
    molecules = asked.molecules
    usable = np.flatnonzero(molecules.position_M >= 0)
    if not len(usable):
        raise SourceError("no row has a usable molecule, so there is nothing to explain")
    heavy = [lenient_molecule(molecules.smiles[row]).GetNumAtoms() for row in usable.tolist()]
    heavy_R = np.repeat(heavy, np.add(heavy, 1))
    row_R = np.repeat(usable, np.add(heavy, 1))
    hidden_R = np.concatenate([np.arange(NOTHING, n) for n in heavy])
    reader = _reader(asked, config, row_R)
    passes = len(reader.every_conformer()[0]) * len(config.members)
    with StageProgress("hiding atoms", passes) as progress:

        def count(conformers: int) -> None:
            progress.advance(conformers)
            progress.tick()

        value_RW = predict_with_hidden(
            folder,
            config,
            reader,
            hidden_R,
            heavy_R,
            options["max_pairs"],
            device,
            count,
        )
    starts = np.flatnonzero(hidden_R == NOTHING)
    found = tuple(
        _explained(config, int(row), molecules.smiles[row], value_RW[start : start + n + 1])
        for row, start, n in zip(usable.tolist(), starts.tolist(), heavy, strict=True)
    )
    return Explanations(config=config, molecules=found, skipped=molecules.skipped, notes=_notes(folder, config))


def _notes(folder: Path, config: FinetunedConfig) -> tuple[str, ...]:
    """Return a caution if the models were never trained on the mask token."""
    outcome = results.read(folder)
    if outcome is not None and outcome.start_sha256 is None:
        why = "Training started from random weights, so the models have never seen the mask that hides an atom"
    elif config.masks is False:
        why = "Pretraining hid no atoms from this model, so it has never seen the mask that hides an atom"
    else:
        return ()
    return (f"{why}: {_NO_MASK}",)


def _explained(config: FinetunedConfig, row: int, smiles: str, value_RW: Float64) -> ExplainedMolecule:
    """Return one explained molecule; the first row of its values is the prediction with all atoms visible."""
    scale_RW = value_RW if config.task == "regression" else _log_odds(value_RW)
    return ExplainedMolecule(
        row=row + 1, smiles=smiles, prediction_W=value_RW[0], attribution_AW=scale_RW[0] - scale_RW[1:]
    )


def _log_odds(probability_RW: Float64) -> Float64:
    inside_RW = np.clip(probability_RW, _SURE, 1.0 - _SURE)
    odds_RW: Float64 = np.log(inside_RW / (1.0 - inside_RW))
    return odds_RW


def _reader(asked: AskedRows, config: FinetunedConfig, row_R: "np.ndarray") -> RowReader:
    return RowReader(
        asked.molecules.split,
        asked.molecules.position_M[row_R],
        np.full((len(row_R), len(config.targets)), np.nan),
        drop_hydrogens=asked.leaves_out_hydrogens,
        conformers=asked.conformers,
    )
