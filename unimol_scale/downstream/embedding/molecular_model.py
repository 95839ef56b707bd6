"""``from_pretrained``: a model that embeds SMILES in one line. Imports torch and RDKit."""

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
from unimol_scale.downstream.embedding.pooling import vector_width
from unimol_scale.downstream.embedding.representations import Kind, RepresentationConfig, represent_all
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.store.schema import Float32, Int64

DEFAULT_CACHE = Path("data/cache")
_ARGUMENTS = {"--max-pairs": "max_pairs", "--inputs": "inputs"}


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """The result of ``embed_usable`` for M SMILES, R of which are usable molecules.

    Attributes:
        row_R: index of the SMILES that each value belongs to, int64, from 0.
        smiles: [R] canonical SMILES; atoms are in their order.
        values: representations of the R molecules, float32 [R, D], or a list of arrays; see ``MolecularModel.embed``.
        skipped: the other rows, each with a reason.
        changes: [R] how the molecule was modified, such as the fragment that was used; "" if it was not.
    """

    row_R: Int64
    smiles: tuple[str, ...]
    values: Float32 | list[Float32]
    skipped: tuple[Skipped, ...]
    changes: tuple[str, ...]


class MolecularModel:
    """A pretrained model that accepts SMILES. It computes on the device to which ``.to(device)`` moves it.

    All attributes of the torch module inside are available here too: ``backbone``, ``heads``, ``parameters()``,
    ``state_dict()``, ``training``, and so on.

    Args:
        model: the torch module.
        source: name or path from which it was loaded; None if it was not loaded.
        averaged: whether the averaged weights of a checkpoint were loaded.

    Attributes:
        model: the torch module.
        source: name or path from which it was loaded; None if it was not loaded.
        averaged: whether the averaged weights of a checkpoint were loaded.
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
            return self if result is self.model else result  # methods such as .half() return the module itself

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
        """Return the representations of molecules. If the model sees 3D, conformers are generated and cached.

        Args:
            smiles: M SMILES, or a single one (M = 1). RDKit molecules may replace SMILES; their 3D conformer is used if
                they have one.
            kind: ``molecule``, ``atom``, ``pair`` or ``attention`` (the scores of every head before the softmax).
            pool: how atoms become the vector of a molecule: their ``mean``, the ``virtual_node``, or ``layers``:
                mean, standard deviation and sum of the atoms at the start and at four depths of the stack, which suit
                linear models better.
            inputs: what the model sees: ``2d``, ``3d`` or ``2d+3d``, in the form of pretraining, with a warning if the
                model was not pretrained on it; None: the richest input that it was pretrained on, or, if that is not
                known, everything that it can see.
            cache: folder in which conformers are kept; None: data/cache.
            max_atoms: molecules with more heavy atoms are refused; None: 128.
            fragments: for molecules of several fragments, such as salts: use the "largest" fragment with a warning
                (``changes`` of ``embed_usable`` names it), or "reject" them.
            max_pairs: largest number of padded pairs Σ(n+1)² in a micro-batch of molecules with n atoms, which limits
                the memory used; None: a number that suits the device.
            hydrogens: whether hydrogens are atoms; None: as in pretraining, or no if that is not known.
            conformers: number of conformers per molecule; the mean of their representations is returned.

        Returns:
            For molecules float32 [M, D], or [M, 15·D] by ``layers`` of four or more layers; for atoms a list of M
            arrays [n, D]; for pairs [n, n, P]; for attention [n, n, layers·heads]. The n heavy atoms are in the order
            of the canonical SMILES, which ``embed_usable`` returns. Hydrogens, if they are atoms, follow in the order
            of RDKit's AddHs. A score is q·k/√d plus the head's bias for the pair, with the query q of the first atom
            and the key k of the second; head h of layer l is channel l·heads + h, counted from 0.

        Raises:
            SourceError: some SMILES cannot be used. The message gives their rows and reasons; ``embed_usable``
                continues without them.
            ConfigError: 3D or several conformers were requested, but the model sees only the graph; or a molecule
                exceeds ``max_pairs``.
            StoreError: the cache cannot be written.
        """
        with naming_arguments(_ARGUMENTS):
            config = RepresentationConfig(
                kind=kind, pooling=pool, inputs=inputs, max_pairs=max_pairs, conformers=conformers
            )
            texts = listed(smiles, "embed")
            prepared = self._prepare(texts, config, cache, max_atoms, fragments, hydrogens)
            refuse_skipped(prepared.skipped, len(texts), "embed", "Correct them, or use embed_usable to skip them")
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
        """Do what ``embed`` does, but skip SMILES that cannot be used and list them in the result."""
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
        """Whether hydrogens were atoms in pretraining; None if it is not known."""
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
        return np.stack(arrays) if arrays else np.empty((0, vector_width(backbone.config, config.pooling)), np.float32)


def from_pretrained(path: "str | PathLike[str]", *, averaged: bool = True) -> MolecularModel:
    """Load a pretrained model that accepts SMILES, on the CPU, in evaluation mode.

    Args:
        path: the name of a model that comes with the package (``shipped_models``), a run, a checkpoint, an exported
            model folder, a file in the released Uni-Mol2 format, or ``owner/name`` on the Hugging Face hub; or the
            return value of ``pretrain``.
        averaged: for checkpoints: load the running mean of the weights if the run keeps one.

    Returns:
        The model. ``embed`` accepts SMILES; ``model.model`` is the torch module, whose attributes are available on the
        returned object too.

    Raises:
        CheckpointError: the model is missing, truncated or damaged, its file holds code, or its tensors do not match
            its configuration.
        ConfigError: ``path`` is neither text nor a path.

    Source:
        Uni-Mol2 (arXiv 2406.14969). Outputs of its released files agree within a relative difference of 2e-5.

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
