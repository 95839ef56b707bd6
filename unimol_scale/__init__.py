"""unimol-scale: large-scale molecular pretraining, from conformer store to scaling law.

    import unimol_scale as us

    store = us.build_store("sample")                        # molecules → conformers; us.open_store reads one
    run = us.pretrain("0.2M", data=store, settings={"train.steps": 100, "train.warmup_steps": 10})
    law = us.fit_scaling_law("runs/")                       # fitted to runs of several sizes; predicts larger models
    model = us.from_pretrained(run)                         # model.embed(["CCO"])
    fitted = us.finetune(run, "solubility.csv", target="logS")
    found = us.predict(fitted, ["CCO", "c1ccccc1O"])
    why = us.explain(fitted, ["c1ccccc1O"])                 # which atoms the prediction comes from

A name is imported when it is first used: importing this package brings no torch, RDKit or Ray. Messages go to the
loggers ``unimol_scale`` and ``conformer_gen``; ``logging.basicConfig(level=logging.INFO)`` shows them.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unimol_scale.api.comparison import compare
    from unimol_scale.api.conformer_store import ConformerStore, MoleculeRow, MoleculeRows, build_store, open_store
    from unimol_scale.api.estimators.classifier import MoleculeClassifier
    from unimol_scale.api.estimators.embedder import MoleculeEmbedder
    from unimol_scale.api.estimators.regressor import MoleculeRegressor
    from unimol_scale.api.finetuned_model import FinetunedModel, explain, finetune, predict
    from unimol_scale.api.learning_rate_law import LearningRateLaw, fit_rate_law
    from unimol_scale.api.model_sharing import ShippedModel, push_to_hub, shipped_models
    from unimol_scale.api.predictions.molecule_predictions import MoleculePredictions
    from unimol_scale.api.pretrained_run import PretrainedRun, pretrain
    from unimol_scale.api.run_plan import RunPlan, plan
    from unimol_scale.api.scaling_law import ScalingLaw, fit_scaling_law
    from unimol_scale.downstream.comparison.compare import Comparison
    from unimol_scale.downstream.embedding.molecular_model import MolecularModel, from_pretrained
    from unimol_scale.errors import (
        CheckpointError,
        ConfigError,
        ConformerError,
        RunError,
        SourceError,
        StoreError,
        UnimolScaleError,
    )

    __version__: str

# Public name → the module that provides it, as imported above.
_HOMES = {
    name: module
    for module, names in {
        "api.conformer_store": ("build_store", "open_store", "ConformerStore", "MoleculeRow", "MoleculeRows"),
        "api.pretrained_run": ("pretrain", "PretrainedRun"),
        "api.run_plan": ("plan", "RunPlan"),
        "api.learning_rate_law": ("fit_rate_law", "LearningRateLaw"),
        "api.scaling_law": ("fit_scaling_law", "ScalingLaw"),
        "downstream.embedding.molecular_model": ("from_pretrained", "MolecularModel"),
        "api.model_sharing": ("push_to_hub", "shipped_models", "ShippedModel"),
        "api.comparison": ("compare",),
        "downstream.comparison.compare": ("Comparison",),
        "api.finetuned_model": ("finetune", "predict", "explain", "FinetunedModel"),
        "api.predictions.molecule_predictions": ("MoleculePredictions",),
        "api.estimators.regressor": ("MoleculeRegressor",),
        "api.estimators.classifier": ("MoleculeClassifier",),
        "api.estimators.embedder": ("MoleculeEmbedder",),
        "errors": (
            "UnimolScaleError",
            "CheckpointError",
            "ConfigError",
            "ConformerError",
            "RunError",
            "SourceError",
            "StoreError",
        ),
    }.items()
    for name in names
}

__all__ = [  # noqa: RUF022 - in the order of work
    "build_store",
    "open_store",
    "pretrain",
    "plan",
    "fit_scaling_law",
    "fit_rate_law",
    "from_pretrained",
    "finetune",
    "compare",
    "predict",
    "explain",
    "shipped_models",
    "push_to_hub",
    "ConformerStore",
    "MoleculeRow",
    "MoleculeRows",
    "PretrainedRun",
    "RunPlan",
    "ScalingLaw",
    "LearningRateLaw",
    "MolecularModel",
    "FinetunedModel",
    "MoleculePredictions",
    "MoleculeRegressor",
    "MoleculeClassifier",
    "MoleculeEmbedder",
    "Comparison",
    "ShippedModel",
    "UnimolScaleError",
    "CheckpointError",
    "ConfigError",
    "ConformerError",
    "RunError",
    "SourceError",
    "StoreError",
    "__version__",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


if not TYPE_CHECKING:  # otherwise type checkers would accept any name

    def __getattr__(name: str) -> Any:  # noqa: ANN401
        if name == "__version__":
            return _version()
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})


def _version() -> str:
    """Return the installed version, as given in pyproject.toml."""
    from importlib import metadata

    try:
        return metadata.version("unimol-scale")
    except metadata.PackageNotFoundError:  # a copy of the code alone, as Ray sends it to its nodes
        return "0+unknown"
