"""``finetune`` and ``predict``: properties of a user's own molecules. Imports torch and RDKit.

Shapes: M molecules, L targets, K classes, S seeds.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from unimol_scale.api.call_settings import a_call, read_call
from unimol_scale.api.molecule_inputs import SMILES, add_weights, file_or_smiles, labelled_columns, write_columns
from unimol_scale.api.predictions.molecule_predictions import MoleculePredictions, molecule_predictions
from unimol_scale.common.output_checks import require_folder
from unimol_scale.common.text.argument_names import path_text, require_order
from unimol_scale.config import build
from unimol_scale.downstream.baselines.baseline_results import TRIVIAL
from unimol_scale.downstream.config import FinetuneConfig, Fragments
from unimol_scale.downstream.embedding.model_source import source_of
from unimol_scale.downstream.embedding.molecular_model import DEFAULT_CACHE, MolecularModel
from unimol_scale.downstream.explanation.explain import Explanations, explain_molecules
from unimol_scale.downstream.explanation.explanation_files import write_explanations
from unimol_scale.downstream.finetuning import finetune as finetuning
from unimol_scale.downstream.finetuning.folds.fold_files import out_of_fold_columns, prediction_columns
from unimol_scale.downstream.finetuning.labelled_rows import CONFORMER_SPREAD, PREDICTED
from unimol_scale.downstream.finetuning.predict import predict_molecules, unseen_inputs
from unimol_scale.downstream.finetuning.results import FinetuneResult, mean_test
from unimol_scale.errors import ConfigError, nearest

_ARGUMENTS = {
    "--from": "model", "--data": "data", "--target": "target", "--size": "size", "--output": "output",
    "--skip-bad": "skip_bad=True", "--smiles-column": "smiles_column", "--split": "split", "--task": "task",
    "--split-column": "split_column", "--reinitialise": "reinitialise", "--fragments": "fragments",
    "--inputs": "inputs", "--max-pairs": "max_pairs", "--device": "device", "--metric": "metric",
    "--from RUN_OR_CHECKPOINT": "model=RUN_OR_CHECKPOINT", "--from none": "model=None", "--size NAME": "size=NAME",
    "--target all": 'target="all"', "--split-column COLUMN": "split_column=COLUMN",
    "--device cuda": 'device="cuda"', "--device cpu": 'device="cpu"',
    "--positive": "positive", "--task multiclass": 'task="multiclass"', "--class-weights": "class_weights",
    "--order": "order", "--censored": "censored=True", "--weight-column": "weight_column", "--transform": "transform",
    "--hydrogens": "hydrogens", "--conformers": "conformers", "--no-baselines": "baselines=False",
    "--coverage": "coverage", "--no-domain": "domain=False", "--calibration-fraction": "calibration_fraction",
    "--dropout-samples": "dropout_samples",
    "--tune": "tune", "--probe": "train.probe", "--lora": "train.lora_rank", "--learning-curve": "learning_curve=True",
    "--models-at-once 1": "models_at_once=1",
}  # fmt: skip
DEFAULT_OUTPUT = Path("finetuned")

DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class FinetunedModel:
    """A finished fine-tuning. It can be used wherever the path of its folder is expected, such as in ``predict``.

    Attributes:
        folder: folder with report.md, results.json, the models and the predictions of all rows.
        result: scores, cautions and all other content of the report.
    """

    folder: Path
    result: FinetuneResult

    @property
    def report(self) -> Path:
        """Path of report.md."""
        return self.folder / "report.md"

    @property
    def metric(self) -> str:
        """Name of the metric that scores the test rows."""
        return self.result.metric

    @property
    def score(self) -> float:
        """Test score, averaged over seeds and folds, in ``result.unit``. NaN if there were no test rows."""
        return self.result.mean

    @property
    def seed_std(self) -> float:
        """Sample standard deviation of the test score over seeds; not an error bar. NaN for a single seed."""
        return self.result.seed_std

    @property
    def scores(self) -> dict[int, float]:
        """Seed → test score, in ``result.unit``; NaN if there were no test rows."""
        return {seed.seed: mean_test([seed]) for seed in self.result.seeds}

    @property
    def baselines(self) -> dict[str, float | None]:
        """Name of each baseline → its test score by the same metric; the best one on the validation rows comes first.

        Baselines are random forests and gradient boosting on fingerprints ("ecfp_forest", "ecfp_boosting") and on RDKit
        descriptors ("rdkit_forest", "rdkit_boosting"), fitted to the same rows, and the mean of the training labels
        ("trivial"). For several targets the score is the mean; if their units differ, in standard deviations of the
        training labels. Empty with ``baselines=False``, and for results of earlier versions.
        """
        found = self.result.baselines
        if found is None:
            return {}
        names = dict.fromkeys((found.chosen, *found.names, TRIVIAL))
        return {name: found.mean(name, standardised=not self.result.has_mean) for name in names}

    @property
    def verdict(self) -> str:
        """A sentence that compares the models with the best baseline and says whether the difference is significant.

        Empty without baselines. The numbers are in ``result.baselines.best``, with the 95 % interval of a paired
        bootstrap over test molecules and seeds.
        """
        return self.result.verdict

    def predictions(self, split: str | None = "test") -> dict[str, npt.NDArray[Any]]:
        """Return the rows of the data with labels and predictions.

        Args:
            split: "train", "valid", "test", or "calibration" if rows were set aside for calibration; None: all rows.

        Returns:
            Column name → values [rows]: "row" (int64, from 1), "smiles", "split", each target (its label, float64, NaN
            if it is missing), "predicted TARGET" (mean over seeds) and "TARGET seed_std"; with several conformers per
            molecule also "TARGET conformer_std", averaged over seeds. For named classes, label and "predicted TARGET"
            are class names, and "predicted TARGET p(CLASS)" is the probability of the positive class, or of each class
            if there are more than two, with its own spreads. A cross-validation returns ``out_of_fold_columns``.
        """
        if self.result.folds:
            return out_of_fold_columns(self.folder, self.result.outputs, split)
        tables = [pq.read_table(self.folder / f"predictions-seed-{seed.seed}.parquet") for seed in self.result.seeds]
        first = {name: tables[0].column(name).to_numpy() for name in ("row", SMILES, "split")}
        keep = np.ones(len(tables[0]), bool) if split is None else first["split"] == split
        columns = {name: values[keep] for name, values in first.items()}
        outputs = self.result.outputs
        value_SRW = np.stack([outputs.read_values(table, PREDICTED)[keep] for table in tables])
        spread_RW = None
        if f"{outputs.names[0]}{CONFORMER_SPREAD}" in tables[0].column_names:
            spreads = [[table[f"{name}{CONFORMER_SPREAD}"].to_numpy() for name in outputs.names] for table in tables]
            spread_RW = np.mean(spreads, axis=0).T[keep]
        return columns | prediction_columns(outputs, outputs.read_labels(tables[0])[keep], value_SRW, spread_RW)

    def explain(self, molecules: Any, **options: Any) -> Explanations:  # noqa: ANN401
        """Return which atoms the predictions for molecules depend on; see ``unimol_scale.explain``."""
        return explain(self, molecules, **options)

    def __fspath__(self) -> str:
        return str(self.folder)

    def __str__(self) -> str:
        return self.result.describe()

    def __repr__(self) -> str:
        return f"FinetunedModel({str(self.folder)!r}: {self.result.describe()})"


def finetune(
    model: "str | PathLike[str] | MolecularModel | None",
    data: Any,  # noqa: ANN401
    *,
    target: str | Sequence[str] | None = None,
    output: str | Path | None = None,
    config: str | Path | Sequence[str | Path] | None = None,
    progress: bool = False,
    weights: Any = None,  # noqa: ANN401
    settings: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> FinetunedModel:
    """Fine-tune a pretrained model on labelled molecules, evaluate it on a test split, and write a report.

    If the folder already holds this fine-tuning, its results are read; if it holds some of the seeds, the others are
    trained.

    Args:
        model: a run, a checkpoint, an exported model, a released file, the name of a model that comes with the package,
            or ``owner/name`` on the Hugging Face hub; or the return value of ``from_pretrained`` or ``pretrain``. None
            or "none": random weights of the preset ``size``.
        data: a table with SMILES (CSV, Parquet), an SDF, or a conformer store with labels; a DataFrame, a pyarrow Table
            or a dict of columns; or (SMILES, values) with values [M] or [M, L]. RDKit molecules may replace SMILES;
            their 3D conformer is used if they have one. Data in memory is written as a table beside the results.
        target: label columns; "all": every numeric one. For (SMILES, values), their names.
        output: folder of the results; None: finetuned/<data>-<model>.
        config: YAML file with settings, such as those in configs/downstream, or several files, such as one for a data
            set and one for a paper; later files override earlier ones, and the arguments override all.
        progress: show messages and bars on standard error; otherwise messages go to the logger ``unimol_scale``, and
            nothing is printed.
        weights: [M] non-negative weights of the rows in the loss, for data in memory; scores are not weighted. For a
            file, give ``weight_column`` instead.
        settings: any setting by its dotted key, such as ``{"train.epochs": 20}``.
        more: any other setting of ``unimol-scale finetune --help-settings`` by its name: ``split``, ``folds``,
            ``repeats``, ``seeds``, ``seed``, ``metric``, ``units``, ``inputs``, ``hydrogens``, ``conformers``,
            ``skip_bad``, ``smiles_column``, ``device``, ``cache``, ``size``, ``baselines`` (False fits none),
            ``coverage``, ``conformal``, ``calibration_fraction``, ``domain`` (False keeps no training molecules),
            ``learning_curve``, ``tune`` (number of settings to try, of which the best are used), …; or groups of
            settings, such as ``train={"epochs": 20}``.

    Returns:
        The scores of each seed, the predictions, the folder and the report.

    Raises:
        ConfigError: a setting is unknown or wrong, or the folder holds other results.
        SourceError: the data is missing or wrong, or a molecule is unusable and ``skip_bad`` is not set.
        CheckpointError: the pretrained model cannot be loaded.
        RunError: training failed.

    Source:
        Scaffold split: Bemis and Murcko 1996, as in MoleculeNet (arXiv 1703.00564).

    Example:
        >>> import unimol_scale as us
        >>> smiles = ["C" * n for n in range(1, 25)] + ["O" + "C" * n for n in range(1, 17)]
        >>> carbons = [text.count("C") for text in smiles]
        >>> fitted = us.finetune(
        ...     "runs/hello", (smiles, carbons), target="carbons", output="finetuned/carbons",
        ...     split="random", seeds=2, inputs="2d", settings={"train.epochs": 2},
        ... )
        >>> fitted.metric, sorted(fitted.scores)
        ('rmse', [0, 1])
        >>> fitted.predictions("test")["predicted carbons"].shape
        (4,)
        >>> fitted.report.exists()
        True
        >>> sorted(fitted.baselines)
        ['ecfp_boosting', 'ecfp_forest', 'rdkit_boosting', 'rdkit_forest', 'trivial']
    """
    with a_call(_ARGUMENTS, progress=progress):
        named = {"pretrained": source_of(model), **more}
        if output is not None:
            named["output"] = output
        require_order(target, "target")
        targets = [target] if isinstance(target, str) else list(target or ())
        if isinstance(data, str | PathLike):
            if weights is not None:
                raise ConfigError("weights are for data in memory; for a file, give weight_column=NAME")
            named["data"] = fspath(data)
        else:
            columns, targets = labelled_columns(data, targets)
            if weights is not None:
                named["weight_column"] = add_weights(columns, weights)
            named["data"] = write_columns(columns, DEFAULT_OUTPUT if output is None else Path(output).parent)
        if targets:
            named["targets"] = targets
        run = build(FinetuneConfig, *read_call(finetune, config, {}, settings or {}, named))
        return FinetunedModel(folder=run.folder, result=finetuning.finetune(run))


def predict(  # noqa: PLR0913 - all but two are named by the caller
    model: "str | PathLike[str]",
    molecules: Any,  # noqa: ANN401
    *,
    smiles_column: str | None = None,
    fragments: Fragments | None = None,
    conformers: int | None = None,
    cache: str | Path = DEFAULT_CACHE,
    max_pairs: int | None = None,
    device: DeviceName = "auto",
    coverage: float | None = None,
    domain: bool = True,
    dropout_samples: int = 0,
    progress: bool = False,
) -> MoleculePredictions:
    """Predict the properties of molecules with a fine-tuned model, averaging its seeds.

    Args:
        model: folder that ``finetune`` wrote, or its return value.
        molecules: a SMILES or a list of SMILES; a DataFrame, a pyarrow Table or a dict of columns with SMILES; or the
            path of a table, SMILES lines, SDF or conformer store. RDKit molecules may replace SMILES; their 3D
            conformer is used if they have one.
        smiles_column: column of the SMILES in a table; None finds it by common names.
        fragments: for molecules of several fragments, such as salts: use the "largest" fragment, or "reject" them;
            None: as in fine-tuning.
        conformers: number of conformers per molecule, over which predictions are averaged; None: as in fine-tuning.
        cache: folder in which conformers are kept.
        max_pairs: largest number of padded pairs Σ(n+1)² in a micro-batch of molecules with n atoms, which limits the
            memory used; None: a number that suits the device.
        device: "auto", "cpu" or "cuda".
        coverage: fraction of the labels that the intervals, or sets of classes, should contain; None: as in fine-tuning
            (0.9 unless set there).
        domain: find the nearest training molecule of each molecule, and report whether it is similar enough.
        dropout_samples: number of draws of the head's dropout, whose spread is ``dropout_std``; 0: none.
        progress: show messages and bars on standard error.

    Returns:
        Values in the order of the molecules; NaN and a reason for molecules that cannot be used.

    Raises:
        SourceError: a file is missing or wrong, or ``molecules`` is none of the above.
        CheckpointError: the folder is not a fine-tuned model, or a file in it is damaged.
        ConfigError: an argument is wrong, the device does not exist, or a molecule exceeds ``max_pairs``.
        StoreError: a store is damaged, or the cache cannot be written.
        RunError: a prediction is not a finite number.

    Source:
        The mean over models of several seeds is a deep ensemble (arXiv 1612.01474).

    Example:
        >>> import unimol_scale as us
        >>> found = us.predict("finetuned/carbons", ["CCO", "no molecule", "CCCC"])
        >>> found.values.shape, found.targets
        ((3, 1), ('carbons',))
        >>> [bool(value) for value in found.reasons]
        [False, True, False]
        >>> list(found.to_dict())[:3]
        ['smiles', 'carbons', 'carbons seed_std']
        >>> sorted(found.domain)
        ['in_domain', 'nearest_training_label', 'nearest_training_smiles', 'similarity', 'vector_similarity']
    """
    with a_call(_ARGUMENTS, progress=progress):
        folder = _folder_of(model, device)
        source = file_or_smiles(molecules, smiles_column)
        found = predict_molecules(
            source,
            folder,
            smiles_column=smiles_column if isinstance(source, Path) else None,
            skip_bad=True,
            cache=Path(cache),
            max_pairs=max_pairs,
            device_name=device,
            fragments=fragments,
            conformers=conformers,
            coverage=coverage,
            domain=domain,
            dropout_samples=dropout_samples,
        )
        if unseen := unseen_inputs(found.config):
            warnings.warn(unseen, stacklevel=2)
        return molecule_predictions(found, None if isinstance(source, Path) else source)


def explain(  # noqa: PLR0913 - all but two are named by the caller
    model: "str | PathLike[str]",
    molecules: Any,  # noqa: ANN401
    *,
    output: str | Path | None = None,
    smiles_column: str | None = None,
    conformers: int | None = None,
    cache: str | Path = DEFAULT_CACHE,
    max_pairs: int | None = None,
    device: DeviceName = "auto",
    progress: bool = False,
) -> Explanations:
    """Attribute the predictions of a fine-tuned model to atoms, by hiding each atom in turn.

    Args:
        model: folder that ``finetune`` wrote, or its return value.
        molecules: molecules in any form that ``predict`` accepts.
        output: folder for explanations.html with the pictures, and for attributions.csv; None writes nothing.
        smiles_column: column of the SMILES in a table; None finds it by common names.
        conformers: number of conformers per molecule, over which predictions are averaged; None: as in fine-tuning.
        cache: folder in which conformers are kept.
        max_pairs: largest number of padded pairs Σ(n+1)² in a micro-batch of molecules with n atoms, which limits the
            memory used; None: a number that suits the device.
        device: "auto", "cpu" or "cuda".
        progress: show messages and bars on standard error.

    Returns:
        An object with ``molecules``, each with ``smiles``, ``prediction_W`` and ``attribution_AW`` (A atoms in the
        order of the SMILES, W outputs), and ``skipped``, the rows that cannot be used.

    Raises:
        SourceError: a file is missing or wrong, or no molecule can be used.
        CheckpointError: the folder is not a fine-tuned model, or a file in it is damaged.
        ConfigError: an argument is wrong, the device does not exist, or the output cannot be written.
        StoreError: a store is damaged, or the cache cannot be written.
        RunError: a prediction is not a finite number.

    Source:
        Occlusion: Zeiler and Fergus 2014 (arXiv 1311.2901).

    Example:
        >>> import unimol_scale as us
        >>> found = us.explain("finetuned/carbons", ["CCO"], output="explained")
        >>> found.molecules[0].elements, found.molecules[0].attribution_AW.shape
        (('C', 'C', 'O'), (3, 1))
    """
    with a_call(_ARGUMENTS, progress=progress):
        folder = _folder_of(model, device)
        if output is not None:
            require_folder(Path(output), "output")
        source = file_or_smiles(molecules, smiles_column)
        found = explain_molecules(
            source,
            folder,
            smiles_column=smiles_column if isinstance(source, Path) else None,
            skip_bad=True,
            cache=Path(cache),
            max_pairs=max_pairs,
            device_name=device,
            conformers=conformers,
        )
        if output is not None:
            write_explanations(Path(output), found)
        return found


def _folder_of(model: "str | PathLike[str]", device: str) -> Path:
    """Return the folder of a fine-tuned model, and check the name of the device."""
    if device not in get_args(DeviceName):
        raise ConfigError(f"device: unknown value {device!r}; {nearest(device, get_args(DeviceName))}")
    return Path(path_text(model, "model", "the folder of a fine-tuned model, or what finetune returned"))
