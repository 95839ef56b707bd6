"""The probe of one seed: vectors of all rows, a head fitted to those of the training rows, and predictions.

Shapes: M rows, R of them used, D atom channels, W outputs.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

import unimol_scale.config as strict
from unimol_scale.common.progress import StageProgress
from unimol_scale.common.text.json_files import hash_json
from unimol_scale.downstream.data.batches import each_conformer_once
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.training import predict_conformers
from unimol_scale.downstream.finetuning.model.training_progress import EpochProgress
from unimol_scale.downstream.finetuning.probe.fit_probe import FittedProbe, fit_probe, head_values
from unimol_scale.downstream.finetuning.probe.kept_vectors import kept_vectors
from unimol_scale.downstream.finetuning.problem.seed_problem import SeedProblem
from unimol_scale.store.schema import Float32, Float64

VECTORS_FOLDER = "vectors"  # subfolder of the cache
_VERSION = 1  # to be increased if the vectors change; part of the name of their file


@dataclass(frozen=True, kw_only=True)
class SeedProbe:
    """A fitted head and its predictions.

    Attributes:
        fitted: how the head was fitted.
        value_RW: predictions from the vectors of the usable rows, in their order, float64; with several conformers,
            from the mean of their vectors.
    """

    fitted: FittedProbe
    value_RW: Float64


def fit_seed_probe(problem: SeedProblem, model: PropertyModel, seed: int, progress: EpochProgress) -> SeedProbe:
    """Fit the head of a model in place.

    Args:
        problem: data and settings, with ``train.probe`` set.
        model: model with the backbone that training starts from, and a new head.
        seed: seed of the order of the rows and of dropout.
        progress: shows the epochs once the vectors are there.

    Raises:
        RunError: memory is full, a loss is not finite, or the validation rows have no defined score.
        OSError: the cache cannot be written.
    """
    training, split = problem.training, problem.split
    normed_MD = frozen_vectors(problem, model)
    model.cpu()
    train_ND, valid_VD = normed_MD[split.train], normed_MD[split.valid]
    config = problem.config.train
    with progress:
        fitted = fit_probe(model, training, config, train_ND, valid_VD, seed=seed, on_epoch=progress.epoch)
    return SeedProbe(fitted=fitted, value_RW=head_values(model, training, normed_MD[problem.rows.usable_M]))


def frozen_vectors(problem: SeedProblem, model: PropertyModel) -> Float32:
    """Return the inputs of an untrained model's head, float32 [M, D], with NaN for unusable rows.

    If the weights are pretrained, the vectors are kept in the cache.
    """
    rows, config = problem.rows, problem.config
    rows_U, max_pairs = np.flatnonzero(rows.usable_M), config.train.max_pairs

    def compute() -> Float32:
        model.to(problem.device)
        samples = each_conformer_once(problem.reader(rows_U), problem.make_sample, max_pairs, problem.device)
        total = len(rows_U) if config.conformers == 1 else None  # some molecules have fewer than they should
        with StageProgress("vectors", total) as progress:

            def count(conformers: int) -> None:
                progress.advance(conformers)
                progress.tick()

            found = predict_conformers(model, samples, problem.scaling, problem.device, count, with_vectors=True)
        assert found.vector_RD is not None, "asked for"
        vector_MD = np.full((len(rows.usable_M), found.vector_RD.shape[1]), np.nan, np.float32)
        vector_MD[rows_U] = found.vector_RD
        return vector_MD

    if problem.start.backbone is None:  # random weights differ between seeds
        return compute()
    made_by = hash_json(
        {
            "version": _VERSION,
            "data": problem.hashes.data,
            "weights": problem.hashes.pretrained,
            "model": strict.to_tree(problem.start.model),
            "view": strict.to_tree(problem.view),
            "rows": hashlib.sha256(rows.usable_M.tobytes()).hexdigest(),
            **{name: getattr(config, name) for name in ("pooling", "hydrogens", "conformers", "fragments")},
        }
    )
    return kept_vectors(config.cache / VECTORS_FOLDER / f"{made_by}.npz", made_by, rows.molecules.smiles, compute)
