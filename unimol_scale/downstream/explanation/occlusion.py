"""Computes the contribution of each atom to a prediction by occlusion: the change when the atom is hidden.

A hidden atom keeps its position: bonds, paths and distances stay, so that the other atoms see the same molecule. Its
element becomes the mask token, and its features and degree become the hidden codes, both of which pretraining by
denoising has trained. Removing the atom instead would open rings and break molecules apart, which no model has seen.
(Occlusion: Zeiler and Fergus 2014, arXiv 1311.2901.)

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

NOTHING = -1  # instead of the index of an atom: no atom is hidden


@dataclass(frozen=True, kw_only=True)
class HidingSampleMaker(SampleMaker):
    """Turns clean molecules into samples in which one atom and its hydrogens are hidden.

    Attributes:
        hidden_C: index of the atom to hide in each conformer, or ``NOTHING``, int64.
        heavy_C: number of atoms of its SMILES, int64; the atoms after them are hydrogens.
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
    """Return predictions for molecules with a hidden atom, float64 [R, W], averaged over seeds and conformers.

    Args:
        folder: folder of the fine-tuned model.
        config: settings of the model.
        rows: the molecules; each occurs once with each of its atoms hidden, and once with none.
        hidden_R: index of the hidden atom, or ``NOTHING``, int64.
        heavy_R: number of atoms of the molecule's SMILES, int64.
        max_pairs: largest number of padded pairs in a micro-batch; None: a number that suits the device.
        device: device that computes.
        on_rows: called with the number of conformers in each finished micro-batch.

    Raises:
        CheckpointError: the file of a model is damaged.
        ConfigError: ``max_pairs`` is too small for the largest molecule.
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
