"""The one line: ``from_pretrained("runs/mine").embed(["CCO", "c1ccccc1"])``. Imports torch and RDKit."""

import functools
import inspect
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.text.argument_names import naming_arguments, path_text
from unimol_scale.data.input_views import Inputs
from unimol_scale.downstream.config import Fragments, Pooling
from unimol_scale.downstream.data.inputs import check_conformers, choose_inputs
from unimol_scale.downstream.data.molecules import Prepared, listed, prepare
from unimol_scale.downstream.data.pretraining_data import pretrained_with_hydrogens
from unimol_scale.downstream.data.skipped_rows import Skipped, refuse_skipped
from unimol_scale.downstream.embedding.representations import Kind, RepresentationConfig, represent_all
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.store.schema import Float32, Int64

DEFAULT_CACHE = Path("data/cache")
_ARGUMENTS = {"--max-pairs": "max_pairs", "--inputs": "inputs"}


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


class MolecularModel:
    """A pretrained model that takes SMILES. Move it with ``.to(device)`` and it computes there.

    Every attribute of the torch module inside is one of this object too: ``backbone``, ``heads``, ``parameters()``,
    ``state_dict()``, ``training``, and so on.

    Args:
        model: the torch module.
        source: what it was loaded from; None: it was made otherwise.
        averaged: whether of a checkpoint there the averaged weights were taken.

    Attributes:
        model: the torch module.
        source: what it was loaded from.
        averaged: whether the averaged weights were taken, if there are any.
    """

    def __init__(self, model: HeadedModel, source: str | None = None, *, averaged: bool = True) -> None:
        self.model = model
        self.source = source
        self.averaged = averaged

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("__") or name in (
            "model",
            "source",
            "averaged",
        ):  # while it is copied or unpickled there is no model
            raise AttributeError(name)
        value = getattr(self.model, name)
        if not inspect.ismethod(value):
            return value

        def call(*arguments: object, **options: object) -> Any:  # noqa: ANN401
            result = value(*arguments, **options)
            return self if result is self.model else result  # as of .half() and .requires_grad_()

        return call

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.model)})

    def __repr__(self) -> str:
        size = sum(parameter.numel() for parameter in self.model.parameters())
        config = self.model.backbone.config
        return f"MolecularModel({size:,} parameters, {config.layers} layers, vectors of {config.atom_width})"

    def to(self, *arguments: Any, **options: Any) -> "MolecularModel":  # noqa: ANN401
        """Move the model, or change its dtype, as ``torch.nn.Module.to`` does; return it."""
        self.model.to(*arguments, **options)
        return self

    def train(self, mode: bool = True) -> "MolecularModel":
        """Set the mode for training; return the model."""
        self.model.train(mode)
        return self

    def eval(self) -> "MolecularModel":
        """Set the mode for evaluation; return the model."""
        return self.train(False)

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
        hydrogens: bool | None = ...,
        conformers: int = ...,
    ) -> Float32: ...

    @overload
    def embed(
        self,
        smiles: str | Sequence[str],
        *,
        kind: Literal["atom", "pair", "attention"],
        pool: Pooling = ...,
        inputs: Inputs | None = ...,
        cache: Path | str | None = ...,
        max_atoms: int | None = ...,
        fragments: Fragments = ...,
        max_pairs: int | None = ...,
        hydrogens: bool | None = ...,
        conformers: int = ...,
    ) -> list[Float32]: ...

    def embed(  # noqa: PLR0913 - all but one are named by the caller
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
        hydrogens: bool | None = None,
        conformers: int = 1,
    ) -> Float32 | list[Float32]:
        """Return the representations of molecules; conformers are made where the model sees 3D, and kept.

        Args:
            smiles: M of them; a single one counts as M = 1. Or molecules of RDKit; one with a 3D conformer keeps it.
            kind: ``molecule``, ``atom``, ``pair`` or ``attention``, the scores of every head before the softmax.
            pool: what stands for a molecule: the mean of its atoms, or the virtual node.
            inputs: what the model sees: ``2d``, ``3d`` or ``2d+3d``, shown as in pretraining, with a warning where it
                was not; None: the richest that pretraining has shown, or if that is not known, everything it can see.
            cache: folder of conformers; None: data/cache.
            max_atoms: molecules with more heavy atoms are refused; None: 128.
            fragments: of a SMILES with several, such as a salt: take the "largest", with a warning (``embed_usable``
                says in ``changes`` what was taken), or "reject" it.
            max_pairs: most padded pairs Σ(n+1)² of one micro-batch: the memory budget. None: what suits the device.
            hydrogens: show hydrogens as atoms; None: as in pretraining, and without where that is not known.
            conformers: to make of each molecule; the mean of their representations is returned.

        Returns:
            float32 [M, D] of molecules; of atoms a list of [n, D], of pairs a list of [n, n, P] and of attention a list
            of [n, n, layers·heads], whose n heavy atoms are in the order of the canonical SMILES (``embed_usable``
            returns it). Hydrogens, where they are atoms, follow in the order of RDKit's AddHs. A score is q·k/√d plus
            the head's bias for the pair, of the first atom's query and the second one's key; head h of layer l is
            channel l·heads + h, from 0.

        Raises:
            SourceError: a SMILES cannot be used; names rows, SMILES and reasons. ``embed_usable`` goes on without.
            ConfigError: 3D or several conformers were asked of a model that sees the graph, or a molecule exceeds
                ``max_pairs``.
            StoreError: the cache cannot be written.
        """
        with naming_arguments(_ARGUMENTS):
            config = RepresentationConfig(
                kind=kind, pooling=pool, inputs=inputs, max_pairs=max_pairs, conformers=conformers
            )
            texts = listed(smiles, "embed")
            prepared = self._prepare(texts, config, cache, max_atoms, fragments, hydrogens)
            refuse_skipped(prepared.skipped, len(texts), "embed", "Mend them, or go on without them with embed_usable")
            if changed := prepared.describe_changes():
                warnings.warn(changed, stacklevel=2)
            return self._represent(prepared, config)

    def embed_usable(  # noqa: PLR0913 - likewise
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
        hydrogens: bool | None = None,
        conformers: int = 1,
    ) -> Embedded:
        """Do what ``embed`` does, and go on without SMILES that cannot be used: they are listed in the result."""
        with naming_arguments(_ARGUMENTS):
            config = RepresentationConfig(
                kind=kind, pooling=pool, inputs=inputs, max_pairs=max_pairs, conformers=conformers
            )
            prepared = self._prepare(listed(smiles, "embed"), config, cache, max_atoms, fragments, hydrogens)
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
        config: RepresentationConfig,
        cache: Path | str | None,
        max_atoms: int | None,
        fragments: Fragments,
        hydrogens: bool | None,
    ) -> Prepared:
        chosen = choose_inputs(config.inputs, self.model.backbone.config, self.model.seen)
        if chosen.warning:
            warnings.warn(chosen.warning, stacklevel=3)
        check_conformers(config.conformers, chosen.inputs)
        return prepare(
            smiles,
            cache=DEFAULT_CACHE if cache is None else Path(cache),
            geometry=chosen.inputs != "2d",
            max_atoms=max_atoms,
            workers=None,
            fragments=fragments,
            hydrogens=bool(self._hydrogens if hydrogens is None else hydrogens),
            conformers=config.conformers,
        )

    @functools.cached_property
    def _hydrogens(self) -> bool | None:
        """Whether the model has seen hydrogens as atoms in pretraining; None: not known."""
        if self.model.hydrogens is not None or self.source is None:
            return self.model.hydrogens
        return pretrained_with_hydrogens(self.source)

    def _represent(self, prepared: Prepared, config: RepresentationConfig) -> Float32 | list[Float32]:
        backbone, was_training = self.model.backbone, self.model.training
        self.model.eval()
        try:
            position_R = prepared.position_M[prepared.position_M >= 0]
            arrays = represent_all(backbone, prepared.split, position_R, config, seen=self.model.seen)
        finally:
            self.model.train(was_training)
        if config.kind != "molecule":
            return arrays
        return np.stack(arrays) if arrays else np.empty((0, backbone.config.atom_width), np.float32)


def from_pretrained(path: "str | PathLike[str]", *, averaged: bool = True) -> MolecularModel:
    """Load a model that takes SMILES, in evaluation mode, on the CPU.

    Args:
        path: the name of a model that comes with the package (``shipped_models``), a run, a checkpoint, an exported
            directory, a file in the released Uni-Mol2 format, or ``owner/name`` on the Hugging Face hub; or what
            ``pretrain`` returned.
        averaged: of a checkpoint, take the mean of the weights over the steps if the run keeps one.

    Returns:
        The model: ``embed`` takes SMILES; ``model.model`` is the torch module, whose attributes are this object's too.

    Raises:
        CheckpointError: missing, truncated, damaged, holding code, or of other tensors than the model's.
        ConfigError: ``path`` is neither text nor a path.

    Source:
        Uni-Mol2 (arXiv 2406.14969), whose released files load with outputs equal to 2e-5.

    Example:
        >>> import unimol_scale as us
        >>> model = us.from_pretrained("runs/hello")
        >>> vectors = model.embed(["CCO", "c1ccccc1O"])
        >>> vectors.shape, vectors.dtype
        ((2, 16), dtype('float32'))
        >>> [atoms.shape for atoms in model.embed(["CCO", "c1ccccc1O"], kind="atom")]  # heavy atoms
        [(3, 16), (7, 16)]
    """
    source = path_text(path, "path", "a path, a name of a shipped model or of the hub, or what pretrain returned")
    return MolecularModel(load_pretrained(source, averaged=averaged), source=source, averaged=averaged)
