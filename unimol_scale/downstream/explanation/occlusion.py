"""What a prediction owes to each atom, by occlusion: the prediction less that of the molecule with the atom hidden.

A hidden atom keeps its place: bonds, paths and distances stay, so that the other atoms see the molecule that it is. Its
element becomes the mask token, and its features and degree become those that are hidden, which pretraining by denoising
shows to the model, and teaches it to make up for. To take the atom away instead would open rings and break molecules
in two, which no model has seen. (Occlusion: Zeiler and Fergus 2014, arXiv 1311.2901.)

Shapes: R rows (a molecule with one atom hidden, or none), C conformers of all rows, B of them in a micro-batch, A atoms
(padded), W outputs.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unimol_scale.data import vocabulary as vocab
from unimol_scale.data.batch import MoleculeBatch
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.downstream.data.batches import LabelledSample, RowReader, SampleMaker, each_row_once
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig, load_member
from unimol_scale.downstream.finetuning.model.training import predict_conformers
from unimol_scale.store.schema import Float64, Int64

NOTHING = -1  # in place of an atom: none is hidden


@dataclass(frozen=True, kw_only=True)
class HidingSampleMaker(SampleMaker):
    """Turns clean molecules into samples in which an atom is hidden, with the hydrogens on it.

    Attributes:
        hidden_C: int64, the atom of each conformer's molecule that is hidden, or ``NOTHING``.
        heavy_C: int64, atoms of its SMILES; those behind them are hydrogens of the conformer.
    """

    hidden_C: Int64
    heavy_C: Int64

    def __call__(self, batch: MoleculeBatch, keys: MoleculeKeys, step: int) -> LabelledSample:
        """Return the molecules as the model sees them."""
        sample = super().__call__(batch, keys, step)
        hidden_BA = torch.from_numpy(self._hidden(batch, keys.molecule_B))
        shown = sample.input
        return dataclasses.replace(
            sample,
            input=dataclasses.replace(
                shown,
                token_BA=shown.token_BA.masked_fill(hidden_BA, vocab.TOKEN_MASK),
                atom_features_BA8=shown.atom_features_BA8.masked_fill(hidden_BA[..., None], vocab.RAW_HIDDEN),
                degree_BA=shown.degree_BA.masked_fill(hidden_BA, vocab.RAW_HIDDEN),
            ),
        )

    def _hidden(self, batch: MoleculeBatch, conformer_B: Int64) -> "np.ndarray":
        """Return which atoms are hidden, bool [B, A]."""
        B, A = batch.valid_BA.shape
        atom_B = self.hidden_C[conformer_B]
        place_A = np.arange(A)
        own_BA = place_A[None, :] == atom_B[:, None]
        bonded_BA = batch.bond_features_BAA3[np.arange(B), np.maximum(atom_B, 0), :, 0] > 0
        hydrogen_BA = (place_A[None, :] >= self.heavy_C[conformer_B][:, None]) & batch.valid_BA
        hidden_BA: np.ndarray = own_BA | (bonded_BA & hydrogen_BA & (atom_B != NOTHING)[:, None])
        return hidden_BA


def predict_with_hidden(
    folder: Path,
    config: FinetunedConfig,
    rows: RowReader,
    hidden_R: Int64,
    heavy_R: Int64,
    max_pairs: int | None,
    device: torch.device,
    on_rows: Callable[[int], None] = lambda _: None,
) -> Float64:
    """Return predictions of molecules in which an atom is hidden, float64 [R, W], means over seeds and conformers.

    Args:
        folder: of the fine-tuned model.
        config: of the model.
        rows: the molecules; each occurs once with each of its atoms hidden.
        hidden_R: int64, the atom that is hidden, or ``NOTHING``.
        heavy_R: int64, atoms of the molecule's SMILES.
        max_pairs: most padded pairs of one micro-batch; None: what suits the device.
        device: to compute on.
        on_rows: called with the number of conformers in each micro-batch that is done.

    Raises:
        CheckpointError: the file of a model is damaged.
        ConfigError: ``max_pairs`` does not hold the largest molecule.
        RunError: memory is full, or a prediction is not finite.
    """
    conformers, row_C = rows.every_conformer()
    make_sample = HidingSampleMaker(
        view=config.shown, model=config.model, hidden_C=hidden_R[row_C], heavy_C=heavy_R[row_C]
    )

    def samples() -> Iterator[LabelledSample]:
        for sample in each_row_once(conformers, make_sample, max_pairs, device):
            yield dataclasses.replace(sample, row_B=torch.from_numpy(row_C[sample.row_B.numpy()]))

    values = []
    for member in config.members:
        model = load_member(folder, config, member).to(device)
        values.append(predict_conformers(model, samples(), config.scaling_of(member), device, on_rows).mean_RL)
    mean_RW: Float64 = np.mean(values, axis=0)
    return mean_RW
