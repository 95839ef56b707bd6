"""Reads the rows of a fine-tuning, splits them, and prepares what the models of each split are fitted to.

Shapes: M rows, L targets.
"""

from collections.abc import Sequence
from pathlib import Path

from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.inputs import ChosenInputs, require_conformers
from unimol_scale.downstream.data.pretraining_data import store_of
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning.atom_references import FittedReferences
from unimol_scale.downstream.finetuning.finetuning_folder import InputHashes
from unimol_scale.downstream.finetuning.labelled_rows import Rows, load_rows
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem, StartingModel
from unimol_scale.downstream.finetuning.row_parts import check_labels, split_labelled, take_off_references
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.metrics import default_metric
from unimol_scale.downstream.registry import METRICS
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import ModelConfig


def prepare_problems(
    config: FinetuneConfig,
    model: ModelConfig,
    chosen: ChosenInputs,
    hashes: InputHashes,
    ranks: Ranks | None,
    splits: Sequence[tuple[Fold | None, DataSplit]] | None = None,
) -> list[SeedProblem]:
    """Return the problems to fit: one, or one for each fold of each repeat of a cross-validation.

    Args:
        config: settings of the fine-tuning.
        model: dimensions of the model.
        chosen: form of its input.
        hashes: hashes of the data and the weights.
        ranks: ranks that share every training; None: there is only this process.
        splits: fold and split of each problem, as another process has made them; None: make them.

    Raises:
        ConfigError: a setting is wrong, or a part of a split cannot be learnt or scored.
        SourceError: the data is missing or wrong.
        CheckpointError: the pretrained model cannot be loaded.
    """
    device = pick_device(config.device) if ranks is None else ranks.device
    own = None if config.metric is None else METRICS.entry(config.metric)
    sees_3d = chosen.inputs != "2d"
    rows = load_rows(config, geometry=sees_3d)
    if sees_3d:
        require_conformers(rows.molecules.split)
    metric = default_metric(rows.task) if own is None else own
    made = split_labelled(config, rows) if splits is None else splits
    learnt_of_split = [(fold, split, *_learnt(config, rows, split, metric, fold)) for fold, split in made]
    start = _start(config, model)
    return [
        SeedProblem(
            config=config, rows=learnt, split=split, start=start, view=chosen.view, metric=metric, device=device,
            hashes=hashes, references=references, fold=fold, ranks=ranks,
        )
        for fold, split, learnt, references in learnt_of_split
    ]  # fmt: skip


def _learnt(
    config: FinetuneConfig, rows: Rows, split: DataSplit, metric: Metric, fold: Fold | None
) -> tuple[Rows, dict[str, FittedReferences]]:
    """Return the rows as the models of a split learn them, and target → subtracted energies of the elements.

    Raises:
        ConfigError: a part of the split cannot be learnt or scored. The message names the fold.
    """
    try:
        learnt, references = take_off_references(config, rows, split)
        check_labels(config, learnt, split, metric)
    except ConfigError as error:
        if fold is None:
            raise
        raise ConfigError(f"{fold} of the cross-validation: {error}") from error
    return learnt, references


def _start(config: FinetuneConfig, model: ModelConfig) -> StartingModel:
    if config.pretrained is None or config.reinitialise:
        return StartingModel(model=model, backbone=None, coordinate_head=None, pretrained_on=None, masks=False)
    pretrained = load_pretrained(config.pretrained).float()
    return StartingModel(
        model=model,
        backbone=pretrained.backbone,
        coordinate_head=pretrained.coordinate_head if pretrained.heads.coordinate else None,
        pretrained_on=store_of(Path(config.pretrained)),
        masks=pretrained.heads.token,
    )
