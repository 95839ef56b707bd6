"""The starting model of a fine-tuning and the form of its input, determined before any data is read."""

from dataclasses import replace

from unimol_scale.checkpoints.weights import identify
from unimol_scale.data.input_views import STANDARD_VIEWS
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.inputs import ChosenInputs, choose_inputs
from unimol_scale.downstream.data.pretraining_data import pretrained_with_hydrogens
from unimol_scale.downstream.finetuning.finetuning_folder import (
    InputHashes,
    begun_settings,
    hash_inputs,
    with_begun_view,
)
from unimol_scale.model.presets import ModelConfig, preset


def identify_start(config: FinetuneConfig) -> tuple[ModelConfig, InputHashes, ChosenInputs]:
    """Return the model's dimensions with the dropout rates of the training, hashes of the inputs, and the input form.

    A model with random weights in the dimensions of a pretrained model gets the same form of input as that model, so
    their scores can be compared.

    Released models divide by the padded number of atoms, which would make a prediction depend on the other molecules in
    its micro-batch. Here the divisor is each molecule's own number of atoms, which reproduces the released model's
    output for a single molecule.
    """
    hashes = hash_inputs(config)
    if config.pretrained is None:
        assert config.size is not None
        model, sha256, seen = preset(config.size), None, None
    else:
        model, sha256, seen = identify(config.pretrained)
    chosen = choose_inputs(config.inputs, model, seen)
    standard = STANDARD_VIEWS[chosen.inputs]
    hashes = replace(hashes, pretrained=sha256, view=None if chosen.view == standard else chosen.view)
    hashes = with_begun_view(config.folder, hashes)
    chosen = replace(chosen, view=hashes.view or standard, seen=None if config.reinitialise else chosen.seen)
    return config.train.with_dropouts(replace(model, normalize_by="molecule")), hashes, chosen


def settle(config: FinetuneConfig, model: ModelConfig) -> FinetuneConfig:
    """Return the settings with values for all that was left open.

    Where the folder has models already, those left open are theirs, as the defaults of an earlier version may have
    been others.

    Args:
        config: settings of the fine-tuning.
        model: dimensions of the model.

    Raises:
        ConfigError: a newer version wrote the settings in the folder, or they are damaged.
    """
    begun = begun_settings(config.folder)
    train = config.train
    if begun is not None:
        train = replace(
            train,
            learning_rate=train.learning_rate or begun.train.learning_rate,
            epochs=train.epochs or begun.train.epochs,
        )
    return replace(config.with_choices, hydrogens=_sees_hydrogens(config, begun), train=train.settled(model.atom_width))


def _sees_hydrogens(config: FinetuneConfig, begun: FinetuneConfig | None) -> bool:
    """Return whether hydrogens are atoms: as requested, else as in the folder's models, else as in pretraining."""
    if config.hydrogens is not None:
        return config.hydrogens
    if begun is not None or config.pretrained is None:
        return begun is not None and bool(begun.hydrogens)
    return bool(pretrained_with_hydrogens(config.pretrained))
