"""Runs a fine-tuning from start to end: rows, split, one model for each seed, predictions, report.

The result of a finished fine-tuning with the same settings is read from its folder. Seeds that an unfinished one, or
one with fewer seeds, has done are kept.

Shapes: M rows, L targets.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import unimol_scale.config as strict
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.text.json_files import write_json
from unimol_scale.data.hydrogens import heavy_counts
from unimol_scale.data.input_views import STANDARD_VIEWS, InputView
from unimol_scale.downstream.config import NOISE_NEEDS_3D, FinetuneConfig
from unimol_scale.downstream.data.batches import RowReader, SampleMaker, each_conformer_once
from unimol_scale.downstream.data.inputs import ChosenInputs, check_conformers, choose_inputs, require_conformers
from unimol_scale.downstream.data.leakage import Leakage, describe_overlap, report_leakage
from unimol_scale.downstream.data.pretraining_data import (
    PretrainingStore,
    describe_larger,
    pretrained_with_hydrogens,
    store_of,
)
from unimol_scale.downstream.data.sdf_table import describe_geometry
from unimol_scale.downstream.data.skipped_rows import write_skipped
from unimol_scale.downstream.data.splits import DataSplit
from unimol_scale.downstream.finetuning import results
from unimol_scale.downstream.finetuning.cautions import count_labelled_molecules, trivial_scores
from unimol_scale.downstream.finetuning.finetune_report import write_report
from unimol_scale.downstream.finetuning.finetuning_folder import (
    InputHashes,
    check_folder,
    hash_inputs,
    hydrogens_begun_with,
    read_recorded,
    with_begun_view,
    write_settings,
)
from unimol_scale.downstream.finetuning.labelled_rows import Rows, load_rows
from unimol_scale.downstream.finetuning.metrics import default_metric, score
from unimol_scale.downstream.finetuning.model.noisy_nodes import coordinate_head
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.saved_model import (
    FORMAT_VERSION,
    FinetunedConfig,
    Member,
    save_config,
    save_member,
)
from unimol_scale.downstream.finetuning.model.training import Scaling, TrainingProblem, fit, predict_conformers
from unimol_scale.downstream.finetuning.model.training_progress import EpochProgress
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult
from unimol_scale.downstream.finetuning.row_parts import check_labels, split_labelled, take_off_references
from unimol_scale.downstream.metric import Metric
from unimol_scale.downstream.registry import METRICS
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.heads import CoordinateHead
from unimol_scale.model.presets import ModelConfig, preset
from unimol_scale.store.schema import Int32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StartingModel:
    """The model that the fine-tuning of every seed starts from.

    Attributes:
        model: its dimensions.
        backbone: pretrained weights; None starts from random ones.
        coordinate_head: the pretrained one; None: the model has none, or the weights are random.
        pretrained_on: the store of its pretraining, or why that is not known; None for random weights.
    """

    model: ModelConfig
    backbone: TwoTrackBackbone | None
    coordinate_head: CoordinateHead | None
    pretrained_on: PretrainingStore | None


@dataclass(frozen=True, kw_only=True)
class FinishedSeed:
    """Content of ``seed-N.json``, which is written last and marks the seed as finished.

    Attributes:
        member: its model.
        outcome: its scores.
    """

    member: Member
    outcome: SeedResult


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune, or finish what an earlier call started.

    Raises:
        ConfigError: a setting is wrong, the folder holds the results of other settings, or a file in it is damaged.
        SourceError: the data is missing or wrong.
        CheckpointError: the pretrained model cannot be loaded.
        RunError: training failed.
    """
    folder = config.folder
    device = pick_device(config.device)
    model, hashes, chosen = _identify(config)
    config = replace(config, hydrogens=_sees_hydrogens(config))
    check_folder(folder, config, hashes)
    require_folder(folder)
    if (finished := results.read(folder)) is not None and len(finished.seeds) == config.seeds:
        return finished
    own = None if config.metric is None else METRICS.entry(config.metric)
    inputs = chosen.inputs
    if inputs == "2d" and config.train.noise_std:
        raise ConfigError(NOISE_NEEDS_3D)
    if chosen.warning:
        _log.warning(chosen.warning)
    check_conformers(config.conformers, inputs)
    rows = load_rows(config, geometry=inputs != "2d")
    if inputs != "2d":
        require_conformers(rows.molecules.split)
    metric = default_metric(rows.task) if own is None else own
    split = split_labelled(config, rows)
    rows, references = take_off_references(config, rows, split)
    check_labels(config, rows, split, metric)
    start = _start(config, model)
    write_settings(folder, config, hashes)
    if rows.molecules.skipped:
        write_skipped(folder / "skipped.csv", rows.molecules.skipped)
    store = config.pretraining_store or (start.pretrained_on.path if start.pretrained_on else None)
    leakage = None
    if store is not None:
        leakage = _leakage(store, rows, split).describe()
    elif start.pretrained_on is not None:
        leakage = f"leakage: not checked, because {start.pretrained_on.missing}; name it with pretraining_store=DIR"
    members, seeds = [], []
    for number in range(config.seeds):
        member, result = _one_seed(config, rows, split, start, chosen.view, metric, config.seed + number, device)
        members.append(member)
        seeds.append(result)
    done = FinetuneResult(
        name=rows.name,
        start=config.start,
        start_sha256=None if start.backbone is None else hashes.pretrained,
        task=rows.task,
        metric=metric.name,
        higher_is_better=metric.higher_is_better,
        in_label_units=metric.in_label_units,
        targets=rows.targets,
        units=rows.units,
        rows=len(rows.labels_ML),
        unlabelled=rows.num_unlabelled,
        skipped=len(rows.molecules.skipped),
        split_sizes={name: len(getattr(split, name)) for name in ("train", "valid", "test")},
        notes=(
            *(one.describe(target, rows.units.get(target, "")) for target, one in references.items()),
            *_notes(config, rows, split, chosen, None if start.backbone is None else store),
        ),
        leakage=leakage,
        seeds=tuple(seeds),
        trivial=trivial_scores(metric, rows.learnt_ML[split.train], rows.learnt_ML[split.test]),
        test_molecules=count_labelled_molecules(rows.molecules.position_M[split.test], rows.labels_ML[split.test]),
        label_std=Scaling.of(rows.learnt_ML[split.train], rows.task).std_L if rows.task == "regression" else (),
    )
    write_report(folder, done, config)
    save_config(
        folder,
        FinetunedConfig(
            format_version=FORMAT_VERSION,
            model=start.model,
            pooling=config.pooling,
            inputs=inputs,
            task=rows.task,
            targets=rows.targets,
            units=rows.units,
            metric=metric.name,
            max_atoms=config.max_atoms,
            members=tuple(members),
            fragments=config.fragments,
            view=chosen.view,
            pretrained_inputs=chosen.seen,
            references={target: one.energies for target, one in references.items()},
            hydrogens=bool(config.hydrogens),
            conformers=config.conformers,
            head=config.head,
        ),
    )
    results.write(folder, done)
    return done


def _identify(config: FinetuneConfig) -> tuple[ModelConfig, InputHashes, ChosenInputs]:
    """Return the dimensions of the model with the dropouts of its training, hashes of the input, and what it is shown.

    Random weights in the dimensions of a pretrained model are shown what it would be shown, so that scores can be
    compared.

    Released models divide by the padded number of atoms, which would make a prediction depend on the other molecules of
    its micro-batch. Dividing by the number of atoms of each molecule gives what the released model gives for a
    molecule by itself.
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


def _sees_hydrogens(config: FinetuneConfig) -> bool:
    """Return what was asked for, else what the models of the folder see, else what the pretrained model has seen."""
    if config.hydrogens is not None:
        return config.hydrogens
    begun = hydrogens_begun_with(config.folder)
    if begun is not None or config.pretrained is None:
        return bool(begun)
    return bool(pretrained_with_hydrogens(config.pretrained))


def _start(config: FinetuneConfig, model: ModelConfig) -> StartingModel:
    if config.pretrained is None or config.reinitialise:
        return StartingModel(model=model, backbone=None, coordinate_head=None, pretrained_on=None)
    pretrained = load_pretrained(config.pretrained).float()
    return StartingModel(
        model=model,
        backbone=pretrained.backbone,
        coordinate_head=pretrained.coordinate_head if pretrained.heads.coordinate else None,
        pretrained_on=store_of(Path(config.pretrained)),
    )


def _notes(
    config: FinetuneConfig, rows: Rows, split: DataSplit, chosen: ChosenInputs, store: Path | None
) -> tuple[str, ...]:
    """Return notes on the data for the user; ``store`` is that of the pretraining, None for random weights."""
    molecules = rows.molecules
    overlap = describe_overlap(
        split.test,
        np.concatenate([split.train, split.valid]),
        key_M=molecules.key_M,
        smiles=molecules.smiles,
        scaffold_smiles=molecules.scaffold_smiles,
    )
    larger = "" if store is None else describe_larger(store, *_num_atoms(rows))
    reduced = molecules.describe_changes()
    geometry = describe_geometry(config.data, sees_3d=chosen.inputs != "2d")
    few = rows.describe_conformers(config.conformers)
    said = (chosen.warning, reduced, rows.describe_repeated(), overlap, larger, geometry, few)
    notes = [note for note in said if note]
    if config.task is None and (classes := rows.describe_integers()):
        notes.append(classes)
    one_class = [
        target
        for target, labels_R in zip(rows.targets, rows.labels_ML[split.train].T, strict=True)
        if len(np.unique(labels_R[~np.isnan(labels_R)])) == 1
    ]
    if one_class:
        notes.append(f"targets with one class only among the training rows: {', '.join(one_class)}")
    return tuple(notes)


def _num_atoms(rows: Rows) -> tuple[Int32, Int32 | None]:
    """Return the heavy atoms, int32, of every molecule with a label, and all its atoms if hydrogens are among them."""
    split, position_R = rows.molecules.split, np.unique(rows.molecules.position_M[rows.usable_M])
    num_atoms_R = split.sizes(position_R)[0]
    if not rows.molecules.hydrogens:
        return num_atoms_R, None
    return heavy_counts(split.gather(position_R)), num_atoms_R


def _leakage(store: Path, rows: Rows, split: DataSplit) -> Leakage:
    molecules = rows.molecules
    return report_leakage(
        store,
        key_M=molecules.key_M[split.test],
        scaffold_M=molecules.scaffold_M[split.test],
        smiles=[molecules.smiles[row] for row in split.test.tolist()],
        scaffold_smiles=[molecules.scaffold_smiles[row] for row in split.test.tolist()],
    )


def _one_seed(
    config: FinetuneConfig,
    rows: Rows,
    split: DataSplit,
    start: StartingModel,
    view: InputView,
    metric: Metric,
    seed: int,
    device: torch.device,
) -> tuple[Member, SeedResult]:
    folder = config.folder
    name = f"seed-{seed}"
    done = folder / f"{name}.json"
    if done.is_file():
        tree = read_recorded(done, "remove it and fine-tune again: only that seed is trained")
        finished = strict.build(FinishedSeed, tree, strict.Origin(name=str(done), recorded=True))
        return finished.member, finished.outcome

    def reader(part: np.ndarray) -> RowReader:
        return RowReader(
            rows.molecules.split,
            rows.molecules.position_M[part],
            rows.learnt_ML[part],
            drop_hydrogens=rows.leaves_out_hydrogens,
            conformers=config.conformers,
        )

    make_sample = SampleMaker(view=view, model=start.model)
    scaling = Scaling.of(rows.learnt_ML[split.train], rows.task)
    problem = TrainingProblem(
        train=reader(split.train),
        valid=reader(split.valid),
        make_sample=make_sample,
        scaling=scaling,
        loss=config.loss or "mse",
        metric=metric,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PropertyModel(start.model, len(rows.targets), config.pooling, config.train.dropout, config.head)
    if start.backbone is not None:
        model.backbone.load_state_dict(start.backbone.state_dict())
    if config.train.predicts_noise:
        model.coordinate_head = coordinate_head(start.model, start.coordinate_head, seed)
    with EpochProgress(f"{rows.name}, seed {seed}", config.train.epochs, metric.name) as progress:
        epochs = fit(model, problem, config.train, seed=seed, device=device, on_epoch=progress.epoch)
    rows_U = np.flatnonzero(rows.usable_M)
    samples = each_conformer_once(reader(rows_U), make_sample, config.train.max_pairs, device)
    found = predict_conformers(model, samples, scaling, device)
    prediction_ML, std_ML = np.full((2, *rows.labels_ML.shape), np.nan)
    prediction_ML[rows_U], std_ML[rows_U] = found.mean_RL, found.std_RL
    total_ML = prediction_ML if rows.reference_ML is None else prediction_ML + rows.reference_ML
    results.write_predictions(
        folder / f"predictions-{name}.parquet", rows, split, total_ML, std_ML if config.conformers > 1 else None
    )
    member = Member(
        file=f"{name}.safetensors",
        sha256=save_member(folder, f"{name}.safetensors", model.cpu()),
        mean_L=scaling.mean_L,
        std_L=scaling.std_L,
    )
    valid, test = (
        score(metric, rows.learnt_ML[part], prediction_ML[part], rows.targets) for part in (split.valid, split.test)
    )
    assert valid.value is not None, "it chose the best epoch"
    if test.value is None:
        raise RunError(f"the predictions of the test rows cannot be judged: {'; '.join(test.undefined[:3])}")
    result = SeedResult(
        seed=seed,
        valid=valid.value,
        test=test.value,
        test_by_target=test.per_target,
        undefined=test.undefined,
        best_epoch=epochs[-1].best,
        losses=tuple(epoch.loss for epoch in epochs),
        valid_scores=tuple(epoch.score for epoch in epochs),
        noise_losses=tuple(epoch.noise_loss for epoch in epochs if epoch.noise_loss is not None),
    )
    write_json(done, strict.to_tree(FinishedSeed(member=member, outcome=result)))
    return member, result
