"""Freezes the layers of a backbone that a fine-tuning does not train."""

from unimol_scale.errors import ConfigError
from unimol_scale.model.backbone import TwoTrackBackbone


def check_trained_layers(trained_layers: int | None, layers: int) -> None:
    """Check that a model has at least ``trained_layers`` layers.

    Raises:
        ConfigError: it has fewer.
    """
    if trained_layers is not None and trained_layers > layers:
        raise ConfigError(
            f"train.trained_layers is {trained_layers}, but the model has {layers} layers; leave it out to train all "
            "of them and the encodings"
        )


def freeze_below(backbone: TwoTrackBackbone, trained_layers: int) -> None:
    """Freeze all parameters of a backbone except those of its last layers.

    Args:
        backbone: the backbone; changed in place.
        trained_layers: number of last layers that stay trainable; no gradients are computed below them.
    """
    backbone.requires_grad_(False)
    for layer in list(backbone.layers)[len(backbone.layers) - trained_layers :]:
        layer.requires_grad_(True)
