"""The one line: ``from_pretrained("runs/mine").embed(["CCO", "c1ccccc1"])``. Imports torch and RDKit."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

import numpy as np
import torch

from unimol_scale.checkpoints import weights
from unimol_scale.downstream.config import Fragments, Inputs, Pooling
from unimol_scale.downstream.data.inputs import resolve_inputs
from unimol_scale.downstream.data.molecules import Prepared, prepare
from unimol_scale.downstream.data.skipped_rows import Skipped, refuse_skipped
from unimol_scale.downstream.embedding.representations import Kind, RepresentationConfig, represent_all
from unimol_scale.errors import SourceError
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.store.schema import Float32, Int64

DEFAULT_CACHE = Path("data/cache")


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What ``embed_usable`` made of M SMILES, R of which are usable molecules.

    Attributes:
        row_R: int64, from 0, which SMILES each value is of.
        smiles: [R] canonical; atoms are in its order.
        values: of the R molecules; float32 [R, D], or a list of arrays.
        skipped: the other rows, each with a reason.
        changes: [R] what made another molecule of a SMILES, such as a fragment that was taken; "" for nothing.
    """

    row_R: Int64
    smiles: tuple[str, ...]
    values: Float32 | list[Float32]
    skipped: tuple[Skipped, ...]
    changes: tuple[str, ...]


class MolecularModel(HeadedModel):
    """A pretrained model that takes SMILES. Move it with ``.to(device)`` and it computes there."""

    @overload
    def embed(
        self,
        smiles: str | Sequence[str],
        *,
        kind: Literal["molecule"] = "molecule",
        pool: Pooling = ...,
        inputs: Inputs | None = ...,
        cache: Path | str | None = ...,
        max_atoms: int | None = ...,
        fragments: Fragments = ...,
        max_pairs: int | None = ...,
    ) -> Float32: ...

    @overload
    def embed(
        self,
        smiles: str | Sequence[str],
        *,
        kind: Literal["atom", "pair"],
        pool: Pooling = ...,
        inputs: Inputs | None = ...,
        cache: Path | str | None = ...,
        max_atoms: int | None = ...,
        fragments: Fragments = ...,
        max_pairs: int | None = ...,
    ) -> list[Float32]: ...

    def embed(
        self,
        smiles: str | Sequence[str],
        *,
        kind: Kind = "molecule",
        pool: Pooling = "mean",
        inputs: Inputs | None = None,
        cache: Path | str | None = None,
        max_atoms: int | None = None,
        fragments: Fragments = "largest",
        max_pairs: int | None = None,
    ) -> Float32 | list[Float32]:
        """Return the representations of molecules; conformers are made where the model sees 3D, and kept.

        Args:
            smiles: M of them; a single one counts as M = 1.
            kind: ``molecule``, ``atom`` or ``pair``.
            pool: what stands for a molecule: the mean of its atoms, or the virtual node.
            inputs: what the model sees: ``2d``, ``3d`` or ``2d+3d``; None: everything it can.
            cache: folder of conformers; None: data/cache.
            max_atoms: molecules with more heavy atoms are refused; None: 128.
            fragments: of a SMILES with several, such as a salt: take the "largest", with a warning (``embed_usable``
                says in ``changes`` what was taken), or "reject" it.
            max_pairs: most padded pairs Σ(n+1)² of one micro-batch: the memory budget. None: what suits the device.

        Returns:
            float32 [M, D] of molecules; of atoms a list of [n, D] and of pairs a list of [n, n, P], whose n heavy atoms
            are in the order of the canonical SMILES (``embed_usable`` returns it).

        Raises:
            SourceError: a SMILES cannot be used; names rows, SMILES and reasons. ``embed_usable`` goes on without.
            ConfigError: 3D was asked of a model without geometry, or a molecule exceeds ``max_pairs``.
            StoreError: the cache cannot be written.
        """
        config = RepresentationConfig(kind=kind, pooling=pool, inputs=inputs, max_pairs=max_pairs)
        texts = _as_list(smiles)
        prepared = self._prepare(texts, inputs, cache, max_atoms, fragments)
        refuse_skipped(prepared.skipped, len(texts), "embed", "Mend them, or go on without them with embed_usable")
        if changed := prepared.describe_changes():
            warnings.warn(changed, stacklevel=2)
        return self._represent(prepared, config)

    def embed_usable(
        self,
        smiles: str | Sequence[str],
        *,
        kind: Kind = "molecule",
        pool: Pooling = "mean",
        inputs: Inputs | None = None,
        cache: Path | str | None = None,
        max_atoms: int | None = None,
        fragments: Fragments = "largest",
        max_pairs: int | None = None,
    ) -> Embedded:
        """Do what ``embed`` does, and go on without SMILES that cannot be used: they are listed in the result."""
        config = RepresentationConfig(kind=kind, pooling=pool, inputs=inputs, max_pairs=max_pairs)
        prepared = self._prepare(_as_list(smiles), inputs, cache, max_atoms, fragments)
        row_R = np.flatnonzero(prepared.position_M >= 0)
        return Embedded(
            row_R=row_R,
            smiles=tuple(prepared.smiles[row] for row in row_R.tolist()),
            values=self._represent(prepared, config),
            skipped=prepared.skipped,
            changes=tuple(prepared.changes[row] for row in row_R.tolist()),
        )

    def _prepare(
        self,
        smiles: Sequence[str],
        inputs: Inputs | None,
        cache: Path | str | None,
        max_atoms: int | None,
        fragments: Fragments,
    ) -> Prepared:
        geometry = resolve_inputs(inputs, self.backbone.config) != "2d"
        folder = DEFAULT_CACHE if cache is None else Path(cache)
        return prepare(smiles, cache=folder, geometry=geometry, max_atoms=max_atoms, workers=None, fragments=fragments)

    def _represent(self, prepared: Prepared, config: RepresentationConfig) -> Float32 | list[Float32]:
        was_training = self.training
        self.eval()
        try:
            position_R = prepared.position_M[prepared.position_M >= 0]
            arrays = represent_all(self.backbone, prepared.split, position_R, config)
        finally:
            self.train(was_training)
        if config.kind != "molecule":
            return arrays
        return np.stack(arrays) if arrays else np.empty((0, self.backbone.config.atom_width), np.float32)


def from_pretrained(path: Path | str, *, averaged: bool = True) -> MolecularModel:
    """Load a model that takes SMILES, in evaluation mode, on the CPU.

    Args:
        path: a run, a checkpoint, an exported directory, a file in the released Uni-Mol2 format, or ``owner/name`` on
            the Hugging Face hub.
        averaged: of a checkpoint, take the mean of the weights over the steps if the run keeps one.

    Raises:
        CheckpointError: missing, truncated, damaged, holding code, or of other tensors than the model's.
    """
    loaded = weights.from_pretrained(path, averaged=averaged)
    with torch.device("meta"):
        model = MolecularModel(loaded.backbone.config, loaded.heads)
    for name, part in loaded.named_children():
        setattr(model, name, part)
    return model.eval()


def _as_list(smiles: str | Sequence[str]) -> list[str]:
    """Return the SMILES in their order; what a table has where one is missing (None, NaN) becomes an empty one.

    Raises:
        SourceError: they have no order, or one is something else than text.
    """
    if isinstance(smiles, str):
        return [smiles]
    if isinstance(smiles, bytes) or not hasattr(smiles, "__getitem__"):
        raise SourceError(f"embed takes a SMILES, or a list of them in an order, got {type(smiles).__name__}")
    texts = ["" if text is None or (isinstance(text, float) and math.isnan(text)) else text for text in smiles]
    for row, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise SourceError(f"embed: row {row} is {text!r}, which is no text; give SMILES")
    return texts
