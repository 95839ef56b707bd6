"""Settings of a fine-tuning: every key of ``configs/downstream/*.yaml`` and of ``key=value``. Imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from unimol_scale.data.input_views import Inputs
from unimol_scale.downstream.label_settings import ClassWeights, LabelSettings, Task, Transform
from unimol_scale.downstream.registry import METRICS
from unimol_scale.downstream.trained_parts import DEFAULT_HEAD, HeadName, TrainedParts
from unimol_scale.downstream.tune_settings import TuneSettings
from unimol_scale.downstream.uncertainty.rules import ConformalKind, check_coverage
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import DROPOUTS, ModelConfig

Precision = Literal["fp32", "bf16"]
Pooling = Literal["mean", "virtual_node"]
Schedule = Literal["linear", "cosine", "constant"]
Fragments = Literal["largest", "reject"]
SplitKind = Literal[
    "scaffold", "scaffold-similarity", "random", "stratified", "cluster", "time", "column", "file",
    "scaffold-kfold", "random-kfold", "cluster-kfold", "column-kfold",
]  # fmt: skip
SplitPart = Literal["train", "valid", "test", "unused"]
GIVEN_SPLITS = ("column", "file")  # each row's part stands somewhere; the others are computed
KFOLDS = ("scaffold-kfold", "random-kfold", "cluster-kfold", "column-kfold")  # cross-validation: several splits
SPLIT_COLUMNS = ("column", "column-kfold", "time")  # need a column
FOLDS, SEEDS = 5, 3  # where neither is given: folds of a cross-validation, and models of a single split
LossName = Literal["mse", "mae", "huber"]

__all__ = ["ClassWeights", "HeadName", "Task", "Transform"]  # that others find here

NO_MODEL = "none"  # what is given in place of a pretrained model, in any case: random weights
# Field of the model's configuration → the setting that replaces it; ``train.dropout`` is the head's.
_MODEL_DROPOUTS = {field: "backbone_dropout" if field == "dropout" else field for field in DROPOUTS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneTrainConfig(TrainedParts):
    """Settings of the training of one model; keys ``train.…``. Which weights it moves is in ``TrainedParts``.

    Attributes:
        learning_rate: peak learning rate of AdamW for the head and the last layer.
        layer_decay: learning rate of a layer over that of the layer above it; 1 gives all layers the same.
        batch_size: molecules in one step.
        epochs: largest number of epochs.
        warm_up: share of all steps in which the learning rate rises; after it, ``schedule`` holds.
        patience: number of epochs without a better validation score after which training stops.
        weight_decay: of AdamW, for matrices only.
        gradient_clip: largest norm of the whole gradient.
        dropout: in the head.
        max_pairs: most padded pairs Σ(n+1)² of one micro-batch: the memory budget. None: what suits the device.
        workers: loader processes; 0 prepares batches in this one.
        precision: that the backbone computes in; the weights are trained and saved in fp32 either way. bf16 is meant
            for large models on a GPU: on a CPU, a small model took 1.3 times as long with it [measured].
        schedule: of the learning rate after the warm-up: ``linear`` or ``cosine`` down to ``end_learning_rate`` at the
            end of the last epoch, or ``constant``.
        end_learning_rate: where ``linear`` and ``cosine`` end; of layers with less than the full rate, in proportion.
        beta1: decay of AdamW's mean of the gradients.
        beta2: decay of AdamW's mean of their squares.
        epsilon: of AdamW, added to the root of that mean.
        backbone_dropout: ``model.dropout`` during this training; None: as the pretrained model has it.
        attention_dropout: ``model.attention_dropout`` likewise.
        triangle_dropout: ``model.triangle_dropout`` likewise.
        activation_dropout: ``model.activation_dropout`` likewise.
        drop_path: ``model.drop_path`` likewise.
        ema_decay: of a running mean of the weights over the steps, which is validated and saved; it follows the weights
            within about 1/(1 − decay) steps. None: there is none.
        noise_std: of Gaussian noise on every input coordinate in training, Å; 0: none. Only for inputs with 3D.
        noise_weight: of the loss of predicting that noise (noisy nodes), beside the loss of the labels; 0: it is not
            predicted. Without ``noise_std`` it has no effect.
    """

    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    batch_size: int = 32
    epochs: int = 60
    warm_up: float = 0.06
    patience: int = 20
    weight_decay: float = 1e-4
    gradient_clip: float = 1.0
    dropout: float = 0.1
    max_pairs: int | None = None
    workers: int = 0
    precision: Precision = "fp32"
    schedule: Schedule = "linear"
    end_learning_rate: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8
    backbone_dropout: float | None = None
    attention_dropout: float | None = None
    triangle_dropout: float | None = None
    activation_dropout: float | None = None
    drop_path: float | None = None
    ema_decay: float | None = None
    noise_std: float = 0.0
    noise_weight: float = 0.1

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "patience", "max_pairs"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ConfigError(f"train.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "gradient_clip", "epsilon"):
            if not getattr(self, name) > 0.0:  # NaN is not
                raise ConfigError(f"train.{name} must be positive, got {getattr(self, name)}")
        for name in ("weight_decay", "workers", "noise_std", "noise_weight"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"train.{name} must not be negative, got {getattr(self, name)}")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError(f"train.layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        if not 0.0 <= self.warm_up <= 1.0:
            raise ConfigError(f"train.warm_up must be a share of all steps, 0 to 1, got {self.warm_up}")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"train.dropout must be in [0, 1), got {self.dropout}")
        self._check_parts()
        self._check_optimizer()

    def _check_optimizer(self) -> None:
        for name in ("beta1", "beta2", *_MODEL_DROPOUTS.values()):
            if (value := getattr(self, name)) is not None and not 0.0 <= value < 1.0:
                raise ConfigError(f"train.{name} must be in [0, 1), got {value}")
        if self.ema_decay is not None and not 0.0 < self.ema_decay < 1.0:
            raise ConfigError(f"train.ema_decay must be between 0 and 1, got {self.ema_decay}")
        if not 0.0 <= self.end_learning_rate <= self.learning_rate:
            raise ConfigError(
                f"train.end_learning_rate must be between 0 and train.learning_rate {self.learning_rate}, got "
                f"{self.end_learning_rate}"
            )
        if self.probe is not None and (self.noise_std or self.precision != "fp32"):
            raise ConfigError(
                "train.noise_std and train.precision are of training the backbone, which train.probe does not"
            )
        if self.schedule == "constant" and self.end_learning_rate:
            raise ConfigError(
                "train.end_learning_rate must not be given with train.schedule=constant, which stays at "
                "train.learning_rate"
            )

    def with_dropouts(self, model: ModelConfig) -> ModelConfig:
        """Return the configuration of a model with the dropouts of this training where it has any of its own."""
        chosen = {field: getattr(self, name) for field, name in _MODEL_DROPOUTS.items()}
        return dataclasses.replace(model, **{field: value for field, value in chosen.items() if value is not None})

    @property
    def predicts_noise(self) -> bool:
        """Whether the noise on the coordinates is predicted, for which the model needs a coordinate head."""
        return self.noise_std > 0.0 and self.noise_weight > 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LabelSettings, TuneSettings):
    """Settings of a fine-tuning; those of the labels are in ``LabelSettings``, of a search in ``TuneSettings``.

    Attributes:
        data: table of SMILES and labels (CSV, Parquet), or a conformer store with labels, whose conformers are used.
        pretrained: model, as ``from_pretrained`` takes it; None starts from random weights of ``size``.
        size: preset of the model with random weights.
        reinitialise: take only the dimensions of ``pretrained``, with random weights, to see what pretraining is worth.
        smiles_column: of the table; None finds it by the usual names.
        targets: label columns; ("all",) takes every numeric column.
        units: target → unit, for reports.
        task: None: classification or multilabel if all labels are 0 or 1, or names of two classes; multiclass if they
            are names of more; else regression. multiclass takes whatever the label column has for a class, such as 1,
            2 and 3, and predicts a probability for each; ordinal takes them in their order.
        report_units: target → unit that its labels are converted into when they are read, and all scores and
            predictions have: Ha, eV, meV, kcal/mol, kJ/mol; a0^2, Å^2; a0^3, Å^3; cal/(mol K), J/(mol K). Absent: the
            unit of the data.
        atom_references: targets that are total energies: an energy for each element is fitted to the training rows and
            taken off, and the rest is learnt and judged, as papers do with energies of atomisation. Predictions are
            total energies.
        split: how rows are divided into training, validation and test: once, or, of those that end in -kfold, for a
            cross-validation, in which every row is tested once in each repeat.
        folds: of a cross-validation; None: 5, or, with split "column-kfold", as many as the column has.
        repeats: of a cross-validation: how many times all rows are dealt to folds anew. Not of "column-kfold".
        split_column: with split "column": column with train, valid or test, of a store a label with 0, 1 or 2; with
            "column-kfold": column with the name or number of the fold in which a row is tested; with "time": column of
            numbers or ISO dates; with "file": column of the parts in that file, if it is not called split.
        split_file: with split "file": table with the columns id and split, or index arrays in a torch file (.pt, such
            as PCQM4Mv2's split_dict.pt) or NumPy archive (.npz), whose numbers are ids, or rows counted from 0.
        split_parts: word of the split column or file → train, valid, test, or unused; {}: it has these words.
        valid_rows: with split "column" or "file" where no row is for validation: number of training rows, drawn at
            random, that become validation rows.
        fractions: of train, valid and test. Of a cross-validation the test is one fold, and the other rows are divided
            in the ratio of train and valid. Test may be 0: then no row is set aside for it, and nothing is judged.
        split_sizes: in place of fractions, the numbers of rows of train, valid and test, one of them null: the rest.
        label_fraction: share of the training rows that is used; chosen by the seed, smaller ones are part of larger.
        inputs: what the model sees; None: the richest that pretraining has shown to it, or everything it can.
        hydrogens: the model sees hydrogens as atoms; None: as it was pretrained, and without where that is not known.
        conformers: of each molecule, of which every epoch sees one, drawn at random; predictions are the mean over all.
            A table gets so many; of a store, the first so many of a molecule are taken, or those that it has.
        pooling: how atoms become one vector of the molecule.
        loss: of a regression, on scaled labels; None: mse. Classifiers always take the cross-entropy.
        metric: that chooses the best epoch and is computed of the test rows: roc_auc, pr_auc, accuracy,
            balanced_accuracy, log_loss, rank_mae, rank_accuracy, quadratic_kappa, rmse, mae, r2, pearson, or
            package.module:Name of one of your own; None: roc_auc (of several classes the mean of each against the
            rest), of ordered ones rank_mae, of a regression rmse.
        seeds: number of models that are trained on one and the same split; they differ in initialisation and order of
            rows. None: 3, of a cross-validation 1: there every fold of every repeat has a seed of its own, and several
            models of a fold are averaged in its score.
        seed: of the split and of the first model.
        max_atoms: molecules with more heavy atoms are refused; None: 128.
        fragments: for a row with several, such as a salt: take the "largest", or "reject" the row, as
            ``curate.fragments`` of a build does. The report says how many rows were reduced.
        skip_bad: rows whose molecule cannot be used go to ``skipped.csv`` instead of stopping everything.
        pretraining_store: the store that the model was pretrained on, to count test molecules in it; None takes the one
            that the run names, if it exists.
        output: folder of the results; None: finetuned/<data>-<start>.
        cache: folder of the conformers.
        conformer_workers: processes that make conformers; None: all cores.
        device: auto, cpu or cuda.
        train: settings of the training of each model.
        head: what makes predictions of the molecule's vector, each after a layer norm: ``mlp`` (linear map, GELU,
            dropout, linear map), ``linear`` (dropout, linear map; as in D&D), or ``dense-tanh`` (dropout, linear map,
            tanh, dropout, linear map; as in Uni-Mol2, there on ``pooling=virtual_node``).
        baselines: fit forests and gradient boosting on fingerprints and on RDKit descriptors to the same rows, and say
            in the report whether the models are better.
        coverage: share of the labels that intervals of a regression, or sets of credible classes, are to hold: of
            every ten, nine. ``predict`` can be asked for another one.
        conformal: residuals that make the intervals of a regression: "plain" ones give all molecules the same width;
            "normalised" ones, over the spread of the seeds, wider ones where seeds disagree.
        calibration_fraction: share of the training rows, drawn by molecule, that is set aside to calibrate these
            intervals and for nothing else; 0: the validation rows calibrate them, which chose the epochs too. A
            cross-validation needs none.
        domain: keep the training molecules, so that ``predict`` names the nearest one of every molecule, and says
            whether it is near enough.
        learning_curve: fit to an eighth, a quarter and half of the labels, too, and draw the scores in the report.
    """

    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"baselines": False, "seeds": SEEDS}  # there were no baselines
    )

    data: Path
    pretrained: str | None = None
    size: str | None = None
    reinitialise: bool = False
    smiles_column: str | None = None
    targets: tuple[str, ...] = ()
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    task: Task | None = None
    report_units: dict[str, str] = dataclasses.field(default_factory=dict)
    atom_references: tuple[str, ...] = ()
    split: SplitKind = "scaffold"
    split_column: str | None = None
    split_file: Path | None = None
    split_parts: dict[str, SplitPart] = dataclasses.field(default_factory=dict)
    valid_rows: int | None = None
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    split_sizes: tuple[int | None, ...] | None = None
    label_fraction: float = 1.0
    inputs: Inputs | None = None
    hydrogens: bool | None = None
    conformers: int = 1
    pooling: Pooling = "mean"
    loss: LossName | None = None
    metric: str | None = None
    seeds: int | None = None
    seed: int = 0
    max_atoms: int | None = None
    fragments: Fragments = "largest"
    skip_bad: bool = False
    pretraining_store: Path | None = None
    output: Path | None = None
    cache: Path = Path("data/cache")
    conformer_workers: int | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    train: FinetuneTrainConfig = dataclasses.field(default_factory=FinetuneTrainConfig)
    head: HeadName = DEFAULT_HEAD
    baselines: bool = True
    folds: int | None = None
    repeats: int = 1
    coverage: float = 0.9
    conformal: ConformalKind = "plain"
    calibration_fraction: float = 0.0
    domain: bool = True
    learning_curve: bool = False

    def __post_init__(self) -> None:
        if not self.targets:
            raise ConfigError("no target: name the label columns with --target (--target all: every numeric column)")
        if len(set(self.targets)) < len(self.targets):
            raise ConfigError(f"targets: one is named twice in {', '.join(self.targets)}")
        if (self.pretrained is None) == (self.size is None):
            raise ConfigError("say either --from RUN_OR_CHECKPOINT, or --from none with --size NAME")
        if self.reinitialise and self.pretrained is None:
            raise ConfigError("--reinitialise takes the dimensions of a pretrained model: name it with --from")
        self._check_split()
        self.train.check_probe(self.head, self.seeds, self.loss, censored=self.censored, task=self.task)
        self.check_tune(self.train.probe)
        self._check_conformal()
        check_fractions(self.fractions)
        if self.baselines and not self.needs_test and self.split not in GIVEN_SPLITS:
            raise ConfigError(
                "the last of the fractions is 0, so that there are no test rows, by which baselines are judged: leave "
                "them out with --no-baselines"
            )
        if not 0.0 < self.label_fraction <= 1.0:
            raise ConfigError(f"label_fraction must be above 0 and at most 1, got {self.label_fraction}")
        for name in ("seeds", "max_atoms", "conformers", "conformer_workers", "valid_rows", "repeats"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        METRICS.check(self.metric, "metric")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")
        if self.loss is not None and self.task not in (None, "regression"):
            raise ConfigError(f"loss {self.loss} is of regression; task {self.task} takes the cross-entropy")
        if self.task is not None:
            self.check_task(self.task, self.targets)
        self.check_names(self.targets, self.atom_references)

    def _check_split(self) -> None:
        if (self.split in SPLIT_COLUMNS) != (self.split_column is not None) and self.split != "file":
            raise ConfigError(f"split={' or '.join(SPLIT_COLUMNS)} and --split-column COLUMN need each other")
        if (self.split == "file") != (self.split_file is not None):
            raise ConfigError("split=file and split_file=FILE need each other")
        for name in ("split_parts", "valid_rows"):
            if getattr(self, name) and self.split not in GIVEN_SPLITS:
                raise ConfigError(f"{name} is of split=column and split=file, not of split={self.split}")
        self._check_folds()
        if self.learning_curve and not self.needs_test and self.split not in GIVEN_SPLITS:
            raise ConfigError("learning_curve needs test rows, and the last of the fractions is 0")
        if (sizes := self.split_sizes) is None:
            return
        if self.split in (*GIVEN_SPLITS, *KFOLDS):
            raise ConfigError(f"split_sizes is of a split that is computed; split={self.split} has its own")
        if len(sizes) != 3 or sizes.count(None) != 1 or any(size is not None and size < 1 for size in sizes):
            raise ConfigError(
                "split_sizes must be two numbers of rows and a null, which is the rest, such as [110000, 10000, null]; "
                f"got {list(sizes)}"
            )

    def _check_conformal(self) -> None:
        check_coverage(self.coverage)
        if not 0.0 <= self.calibration_fraction < 1.0:
            raise ConfigError(f"calibration_fraction must be in [0, 1), got {self.calibration_fraction}")
        if self.is_kfold and self.calibration_fraction:
            raise ConfigError(
                f"calibration_fraction is of a single split; with split={self.split} every row calibrates the intervals"
            )
        if self.conformal == "normalised" and (self.is_kfold or self.num_seeds < 2):
            raise ConfigError("conformal=normalised needs the spread of two seeds or more, of a single split")

    def _check_folds(self) -> None:
        if not self.is_kfold or self.split == "column-kfold":
            for name, default in (("folds", None), ("repeats", 1)):
                if getattr(self, name) != default:
                    kinds = ", ".join(kind for kind in KFOLDS if kind != "column-kfold")
                    raise ConfigError(f"{name} is of split={kinds}, not of split={self.split}")
        if self.folds is not None and self.folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.folds}")

    @property
    def is_kfold(self) -> bool:
        """Whether this is a cross-validation."""
        return self.split in KFOLDS

    @property
    def needs_test(self) -> bool:
        """Whether rows must be set aside for a test; otherwise there may be none."""
        return self.is_kfold or self.split_sizes is not None or self.fractions[2] > 0.0

    @property
    def num_seeds(self) -> int:
        """Number of models of each split."""
        alike = self.is_kfold or self.train.probe == "linear"
        return self.seeds if self.seeds is not None else 1 if alike else SEEDS

    @property
    def with_counts(self) -> "FinetuneConfig":
        """The same settings with the numbers of seeds and folds that they come to."""
        folds = FOLDS if self.is_kfold and self.split != "column-kfold" and self.folds is None else self.folds
        return dataclasses.replace(self, seeds=self.num_seeds, folds=folds)

    @property
    def start(self) -> str:
        """Name of what the weights start from: that of the run or checkpoint, or "scratch"."""
        if self.pretrained is None or self.reinitialise:
            return "scratch"
        return Path(self.pretrained).name or self.pretrained

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.output or Path("finetuned") / f"{self.data.name.split('.')[0]}-{self.start}"


def check_fractions(fractions: Sequence[float]) -> None:
    """Check the shares of training, validation and test.

    Raises:
        ConfigError: they are not three, do not add up to 1, or one is not positive; only the last one may be 0.
    """
    if len(fractions) != 3 or min(fractions[:2]) <= 0.0 or not fractions[2] >= 0.0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise ConfigError(
            "fractions must be three positive numbers that add up to 1 (the last one, of the test, may be 0), got "
            f"{list(fractions)}"
        )
