"""``MoleculeEmbedder``: a scikit-learn transformer from molecules to vectors of a model. Imports torch and RDKit.

Shapes: M molecules, D atom channels.
"""

from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from unimol_scale.api.call_settings import a_call
from unimol_scale.api.estimators.estimator_inputs import check_handling, molecules_of, refuse_unusable
from unimol_scale.api.estimators.fitted_folder import FileFolder
from unimol_scale.checkpoints.shipped import DEFAULT_MODEL
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.text.argument_names import path_text
from unimol_scale.downstream.config import Fragments, Pooling
from unimol_scale.downstream.data.pretraining_data import pretrained_with_hydrogens
from unimol_scale.downstream.embedding.molecular_model import MolecularModel, from_pretrained
from unimol_scale.downstream.embedding.pooling import vector_width
from unimol_scale.store.schema import Float32


class MoleculeEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer from molecules to the vectors that ``model.embed`` of a pretrained model returns.

    Nothing is trained: ``fit`` loads the model. A pickle holds the weights and does not need the model's files.

    Attributes:
        n_components_: length D of a vector.

    Raises:
        CheckpointError: in ``fit``: the pretrained model cannot be loaded.
        ConfigError: a parameter is wrong.
        MoleculeInputError: some molecules cannot be used; the message names them. It is both a SourceError and a
            ValueError.

    Source:
        The interface: scikit-learn (Buitinck et al. 2013, arXiv 1309.0238).

    Example:
        >>> import unimol_scale as us
        >>> from sklearn.linear_model import Ridge
        >>> from sklearn.pipeline import make_pipeline
        >>> model = make_pipeline(us.MoleculeEmbedder("runs/hello", inputs="2d"), Ridge())
        >>> model.fit(["CO", "CCO", "CCCO", "CCCCO"], [1, 2, 3, 4]).predict(["CCCCCO"]).shape
        (1,)
        >>> us.MoleculeEmbedder("runs/hello", inputs="2d").fit_transform(["CCO", "c1ccccc1O"]).shape
        (2, 16)
    """

    def __init__(  # noqa: PLR0913 - all but one are named by the caller
        self,
        pretrained: "str | PathLike[str]" = DEFAULT_MODEL,
        *,
        pooling: Pooling = "mean",
        inputs: str | None = None,
        conformers: int = 1,
        hydrogens: bool | None = None,
        fragments: Fragments = "largest",
        max_atoms: int | None = None,
        handle_invalid: str = "raise",
        cache: "str | PathLike[str] | None" = None,
        device: str = "auto",
        verbose: bool = False,
    ) -> None:
        """Store the parameters; they are checked when they are used.

        Args:
            pretrained: the name of a model that comes with the package, a run, a checkpoint, an exported model, a
                released file, or ``owner/name`` on the Hugging Face hub.
            pooling: how atoms become the vector of a molecule: the "mean" of its atoms, the "virtual_node", or
                "layers": mean, standard deviation and sum of the atoms at the start and at four depths of the stack,
                which suit linear models better.
            inputs: what the model sees, "2d", "3d" or "2d+3d"; None: the richest input that it was pretrained on.
            conformers: number of conformers per molecule, over which vectors are averaged.
            hydrogens: whether hydrogens are atoms; None: as in pretraining.
            fragments: for molecules of several fragments, such as salts: use the "largest" fragment, or "reject" them.
            max_atoms: largest number of heavy atoms of a molecule; None: 128.
            handle_invalid: what to do with molecules that cannot be used: "raise" an error that names them, or return
                "nan" vectors for them.
            cache: folder in which conformers are kept; None: data/cache.
            device: "auto", "cpu" or "cuda".
            verbose: show messages and bars on standard error.
        """
        self.pretrained = pretrained
        self.pooling = pooling
        self.inputs = inputs
        self.conformers = conformers
        self.hydrogens = hydrogens
        self.fragments = fragments
        self.max_atoms = max_atoms
        self.handle_invalid = handle_invalid
        self.cache = cache
        self.device = device
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "MoleculeEmbedder":  # noqa: ANN401
        """Load the model.

        Args:
            X: [M] molecules; only their type is checked.
            y: ignored.
        """
        molecules_of(X)
        check_handling(self.handle_invalid)
        self._loaded = _LoadedModel(path_text(self.pretrained, "pretrained", "the name or path of a model"))
        self.n_components_ = vector_width(self._loaded.model.backbone.config, self.pooling)
        return self

    def transform(self, X: Any) -> Float32:  # noqa: ANN401
        """Return the vectors of molecules.

        Args:
            X: [M] SMILES or RDKit molecules, in a list, array, Series or table with one column.

        Returns:
            float32 [M, D]; NaN for unusable molecules if ``handle_invalid="nan"``.

        Raises:
            NotFittedError: ``fit`` was not called.
            MoleculeInputError: a molecule cannot be used; the message names it.
            ConfigError: a parameter is wrong.
        """
        check_is_fitted(self)
        check_handling(self.handle_invalid)
        texts = molecules_of(X, sees_3d=self.inputs != "2d")
        with a_call({"pool": "pooling"}, progress=bool(self.verbose)):
            found = self._loaded.model.to(pick_device(self.device)).embed_usable(
                texts,
                pool=self.pooling,
                inputs=self.inputs,  # type: ignore[arg-type]
                cache=None if self.cache is None else Path(fspath(self.cache)),
                max_atoms=self.max_atoms,
                fragments=self.fragments,
                hydrogens=self.hydrogens,
                conformers=self.conformers,
            )
        if self.handle_invalid == "raise":
            refuse_unusable([(one.row, one.smiles, one.reason) for one in found.skipped], len(texts))
        vectors_MD = np.full((len(texts), self.n_components_), np.nan, np.float32)
        vectors_MD[found.row_R] = found.values
        return vectors_MD

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def __sklearn_tags__(self) -> Any:  # noqa: ANN401
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.input_tags.allow_nan = self.handle_invalid == "nan"
        tags.transformer_tags.preserves_dtype = []
        return tags


class _LoadedModel:
    """A pretrained model. Its pickle holds the content of its files and no torch objects.

    Args:
        source: name or path from which the model is loaded.
    """

    def __init__(self, source: str) -> None:
        self.model = from_pretrained(source)
        if self.model.model.hydrogens is None:  # a pickled copy has no run folder to read it from
            self.model.model.hydrogens = pretrained_with_hydrogens(source)

    def __getstate__(self) -> dict[str, FileFolder]:
        folder = FileFolder()
        save_pretrained(self.model.model, folder.path)
        return {"files": folder}

    def __setstate__(self, state: dict[str, FileFolder]) -> None:
        path = state["files"].path
        self.model = MolecularModel(from_pretrained(path).model, source=None)
