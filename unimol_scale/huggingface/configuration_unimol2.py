"""The configuration of a model in a Hugging Face folder, stored as its config.json. Needs transformers.

This file is copied into the folder (``register_for_auto_class``), where it is imported under another name.
"""

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from unimol_scale.config import Origin, build, to_tree
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.model.presets import ModelConfig, preset

DEFAULT_SIZE = "0.1M"  # size of a configuration without arguments, which transformers makes to compare others with


class UniMol2Config(PretrainedConfig):  # type: ignore[misc]
    """The dimensions of a model, and the inputs that it was pretrained on.

    Args:
        architecture: ``ModelConfig`` as a nested dict; None uses the preset 0.1M.
        seen: ``InputsSeen`` as a nested dict; None if it is not known.
        hydrogens: whether hydrogens were atoms in pretraining; None if it is not known.
        pooling: how ``pooler_output`` is computed: ``mean`` of the atoms, ``virtual_node`` or ``layers``.
        options: further arguments of ``PretrainedConfig``.
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
        """The dimensions and options of the model.

        Raises:
            ConfigError: a key of ``architecture`` is unknown or missing.
        """
        return build(ModelConfig, self.architecture, Origin(name="architecture", recorded=True))

    @property
    def inputs_seen(self) -> InputsSeen | None:
        """The inputs that the model was pretrained on; None if they are not known."""
        return None if self.seen is None else build(InputsSeen, self.seen, Origin(name="seen", recorded=True))

    @property
    def hidden_size(self) -> int:
        """Number of atom channels D, under the name that transformers uses."""
        return self.model_config.atom_width


UniMol2Config.register_for_auto_class()
AutoConfig.register(UniMol2Config.model_type, UniMol2Config, exist_ok=True)
