"""The backbone as a transformers model.

This file is copied into the folder (``register_for_auto_class``), where it is imported under another name.
Shapes: B molecules, A atoms (padded), N = A + 1 nodes (virtual node first), D atom channels, P pair channels.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.config import to_tree
from unimol_scale.downstream.embedding.pooling import inner_depths, pool
from unimol_scale.huggingface.configuration_unimol2 import UniMol2Config
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.encodings import GaussianKernel, ModelInput


@dataclass
class UniMol2Output(ModelOutput):  # type: ignore[misc]
    """The representations of a batch; values at padding are arbitrary.

    Attributes:
        last_hidden_state: atom representations [B, N, D], the virtual node first.
        pooler_output: one vector per molecule [B, D]; by ``layers`` [B, 15·D], for four or more layers.
        pair_state: pair representations [B, N, N, P].
        attention_mask: bool [B, N], True at real nodes.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    pair_state: Tensor | None = None
    attention_mask: Tensor | None = None


class UniMol2Model(PreTrainedModel):  # type: ignore[misc]
    """The two-track Transformer of Uni-Mol2 (arXiv 2406.14969), without heads.

    Args:
        config: the configuration of the model.
    """

    config_class = UniMol2Config
    base_model_prefix = "unimol2"
    main_input_name = "token_BA"

    def __init__(self, config: UniMol2Config) -> None:
        super().__init__(config)
        self.backbone = TwoTrackBackbone(config.model_config)
        self.post_init()

    @classmethod
    def from_unimol_scale(cls, source: str) -> "UniMol2Model":
        """Load a model of unimol-scale on the CPU, in evaluation mode, without its pretraining heads.

        Args:
            source: a run, a checkpoint, an exported model, a released file, the name of a shipped model, or owner/name
                on the Hugging Face hub.

        Raises:
            CheckpointError: the model is missing or damaged, or its tensors do not match its configuration.
        """
        found = load_pretrained(source)
        config = UniMol2Config(
            architecture=to_tree(found.backbone.config),
            seen=None if found.seen is None else to_tree(found.seen),
            hydrogens=found.hydrogens,
        )
        model = cls(config)
        model.backbone.load_state_dict(found.backbone.state_dict())
        model.eval()
        return model

    def forward(self, return_dict: bool | None = None, **batch: Tensor) -> UniMol2Output | tuple[Any, ...]:
        """Return the representations of a batch.

        Args:
            return_dict: False returns a tuple instead of ``UniMol2Output``.
            batch: the fields of ``ModelInput``, as ``SmilesCollator`` returns them.
        """
        inner = inner_depths(self.backbone.config, self.config.pooling)
        seen = self.backbone(ModelInput(**batch), inner=inner)
        output = UniMol2Output(
            last_hidden_state=seen.atom_BND,
            pooler_output=pool(seen, self.config.pooling),
            pair_state=seen.pair_BNNP,
            attention_mask=seen.valid_BN,
        )
        return output.to_tuple() if return_dict is False else output

    def _init_weights(self, module: nn.Module) -> None:
        """Set the weights that a module built on the meta device does not initialise itself."""
        if isinstance(module, GaussianKernel):
            module.reset_centres()


UniMol2Model.register_for_auto_class("AutoModel")
AutoModel.register(UniMol2Config, UniMol2Model, exist_ok=True)
