"""Turns SMILES into batches of tensors for a data loader or the ``Trainer`` of transformers. Imports RDKit."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unimol_scale.data.input_views import Inputs
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.downstream.data.batches import RowReader
from unimol_scale.downstream.data.inputs import choose_inputs, clean_input
from unimol_scale.downstream.data.molecules import prepare
from unimol_scale.downstream.data.skipped_rows import refuse_skipped
from unimol_scale.downstream.embedding.molecular_model import DEFAULT_CACHE
from unimol_scale.huggingface.configuration_unimol2 import UniMol2Config

SMILES, LABELS = "smiles", "labels"


class SmilesCollator:
    """Makes the input of a model from SMILES. If the model sees 3D, conformers are generated and cached.

    Args:
        config: the configuration of the model.
        inputs: "2d", "3d" or "2d+3d"; None: the richest input that the model was pretrained on, or, if that is not
            known, everything that its architecture accepts.
        cache: folder in which conformers are kept.
    """

    def __init__(
        self, config: UniMol2Config, *, inputs: Inputs | None = None, cache: Path | str = DEFAULT_CACHE
    ) -> None:
        self._config, self._inputs, self._cache = config, inputs, Path(cache)

    def __call__(self, examples: Sequence[str] | Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the tensors of ``ModelInput`` by field name, and ``labels`` if the examples have them.

        Args:
            examples: SMILES, or mappings with the key "smiles" and optionally "labels".

        Raises:
            SourceError: some SMILES cannot be used. The message gives their rows and the reasons.
        """
        texts = [one if isinstance(one, str) else str(one[SMILES]) for one in examples]
        model = self._config.model_config
        chosen = choose_inputs(self._inputs, model, self._config.inputs_seen)
        found = prepare(
            texts,
            cache=self._cache,
            geometry=chosen.inputs != "2d",
            max_atoms=None,
            workers=None,
            hydrogens=bool(self._config.hydrogens),
        )
        refuse_skipped(found.skipped, len(texts), "the collator", "Leave them out")
        rows = np.arange(len(texts))
        reader = RowReader(found.split, found.position_M, np.empty((len(texts), 0)))
        keys = MoleculeKeys(seed=0, epoch_B=np.zeros_like(rows), molecule_B=rows)
        shown = clean_input(reader.read(keys), chosen.view, model)
        batch = {field.name: getattr(shown, field.name) for field in fields(shown)}
        batch = {name: tensor for name, tensor in batch.items() if tensor is not None}
        labels = [one[LABELS] for one in examples if not isinstance(one, str) and LABELS in one]
        return {**batch, LABELS: torch.tensor(labels)} if labels else batch
