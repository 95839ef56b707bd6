"""What a model in a Hugging Face folder is: the content of its config.json. Needs transformers.

This file is copied into the folder (``register_for_auto_class``), where it is imported under another name.
"""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from unimol_scale.config import Origin, build, to_tree
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.model.presets import ModelConfig, preset

DEFAULT_SIZE = "0.1M"  # of a configuration that says nothing, which transformers asks for to compare with


class UniMol2Config(PretrainedConfig):  # type: ignore[misc]
    """Dimensions of a model, and what pretraining has shown to it.

    Args:
        architecture: ``ModelConfig`` as a tree; None: that of the smallest preset.
        seen: ``InputsSeen`` as a tree; None: that is not known.
        hydrogens: whether pretraining has shown hydrogens as atoms; None: that is not known.
        pooling: what ``pooler_output`` is: ``mean`` of the atoms, or ``virtual_node``.
        options: what every configuration of transformers has.
    """

    model_type = "unimol2"

    def __init__(
        self,
        architecture: dict[str, Any] | None = None,
        seen: dict[str, Any] | None = None,
        hydrogens: bool | None = None,
        pooling: str = "mean",
        **options: Any,  # noqa: ANN401
    ) -> None:
        self.architecture = to_tree(preset(DEFAULT_SIZE)) if architecture is None else architecture
        self.seen = seen
        self.hydrogens = hydrogens
        self.pooling = pooling
        super().__init__(**options)

    @property
    def model_config(self) -> ModelConfig:
        """Dimensions and options of the model.

        Raises:
            ConfigError: a key is unknown or missing.
        """
        return build(ModelConfig, self.architecture, Origin(name="architecture", recorded=True))

    @property
    def inputs_seen(self) -> InputsSeen | None:
        """What pretraining has shown to the model; None: that is not known."""
        return None if self.seen is None else build(InputsSeen, self.seen, Origin(name="seen", recorded=True))

    @property
    def hidden_size(self) -> int:
        """Channels of an atom, which transformers calls so."""
        return self.model_config.atom_width


UniMol2Config.register_for_auto_class()
AutoConfig.register(UniMol2Config.model_type, UniMol2Config, exist_ok=True)
