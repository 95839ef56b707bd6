"""Settings of a fine-tuning: every key of ``configs/downstream/*.yaml`` and of ``key=value``. Imports no torch."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from unimol_scale.data.input_views import Inputs
from unimol_scale.downstream.label_settings import ClassWeights, LabelSettings, Task, Transform
from unimol_scale.downstream.registry import METRICS
from unimol_scale.downstream.trained_parts import DEFAULT_HEAD, HeadName, TrainedParts
from unimol_scale.downstream.tune_settings import TuneSettings
from unimol_scale.downstream.uncertainty.rules import ConformalKind, check_coverage
from unimol_scale.errors import ConfigError
from unimol_scale.model.presets import DROPOUTS, ModelConfig

Precision = Literal["fp32", "bf16"]
Pooling = Literal["mean", "virtual_node", "layers"]
Schedule = Literal["linear", "cosine", "constant"]
Fragments = Literal["largest", "reject"]
SplitKind = Literal[
    "scaffold", "scaffold-similarity", "random", "stratified", "cluster", "time", "column", "file",
    "scaffold-kfold", "random-kfold", "cluster-kfold", "column-kfold",
]  # fmt: skip
SplitPart = Literal["train", "valid", "test", "unused"]
GIVEN_SPLITS = ("column", "file")  # the user assigns each row to a part; other kinds compute the split
KFOLDS = ("scaffold-kfold", "random-kfold", "cluster-kfold", "column-kfold")  # cross-validations
SPLIT_COLUMNS = ("column", "column-kfold", "time")  # kinds that need a column
FOLDS, SEEDS = 5, 3  # defaults: folds of a cross-validation, and models of a single split
LossName = Literal["mse", "mae", "huber"]

__all__ = ["ClassWeights", "HeadName", "Task", "Transform"]  # re-exported

SMALL_WIDTH = 256  # widest model with the first of these rates and epochs; docs/benchmarks.md has their comparison
SMALL_RATE, SMALL_EPOCHS = 5e-4, 30
RATE, EPOCHS = 1e-4, 60
NO_MODEL = "none"  # given instead of a pretrained model, in upper or lower case: random weights
# Field of the model's configuration → the setting that replaces it; ``train.dropout`` is the head's.
_MODEL_DROPOUTS = {field: "backbone_dropout" if field == "dropout" else field for field in DROPOUTS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneTrainConfig(TrainedParts):
    """Settings of the training of one model, with keys ``train.…``. ``TrainedParts`` says which weights are updated.

    Attributes:
        learning_rate: peak learning rate of AdamW for the head and the last layer. None: 5e-4 for models of a width up
            to 256, and 1e-4 for larger ones and for probes.
        layer_decay: learning rate of a layer divided by that of the layer above it; 1: all layers have the same.
        batch_size: molecules per step.
        epochs: largest number of epochs. None: 30 for models of a width up to 256, and 60 for larger ones and for
            probes.
        warm_up: fraction of all steps in which the learning rate rises; after that, ``schedule`` applies.
        patience: number of epochs without a better validation score after which training stops.
        weight_decay: weight decay of AdamW, applied only to matrices.
        gradient_clip: largest norm of the whole gradient.
        dropout: dropout in the head.
        max_pairs: largest number of padded pairs Σ(n+1)² in a micro-batch, which limits memory. None: suits the device.
        workers: number of loader processes; 0 prepares batches in the main process.
        precision: precision in which the backbone computes; weights are always trained and saved in fp32. bf16 is meant
            for large models on a GPU: on a CPU, a small model took 1.3 times as long with it [measured].
        schedule: learning rate after the warm-up: ``linear`` or ``cosine`` decay to ``end_learning_rate`` at the end of
            the last epoch, or ``constant``.
        end_learning_rate: final rate of ``linear`` and ``cosine``; scaled down for layers with less than the full rate.
        beta1: decay of AdamW's running mean of the gradients.
        beta2: decay of AdamW's running mean of the squared gradients.
        epsilon: added to the root of AdamW's mean of squares.
        backbone_dropout: ``model.dropout`` during this training; None: as in the pretrained model.
        attention_dropout: ``model.attention_dropout``, likewise.
        triangle_dropout: ``model.triangle_dropout``, likewise.
        activation_dropout: ``model.activation_dropout``, likewise.
        drop_path: ``model.drop_path``, likewise.
        ema_decay: decay of an exponential moving average of the weights, which is validated and saved in their place;
            it averages over about 1/(1 − decay) steps. None: no average.
        noise_std: standard deviation of Gaussian noise on all input coordinates in training, Å; 0: none. Needs 3D.
        noise_weight: weight of the loss of predicting that noise (noisy nodes), added to the loss of the labels; 0: the
            noise is not predicted. It has no effect without ``noise_std``.
    """

    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType({"learning_rate": 1e-4, "epochs": 60})

    learning_rate: float | None = None
    layer_decay: float = 1.0
    batch_size: int = 32
    epochs: int | None = None
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
            if (value := getattr(self, name)) is not None and not value > 0.0:  # refuses NaN too
                raise ConfigError(f"train.{name} must be positive, got {value}")
        for name in ("weight_decay", "workers", "noise_std", "noise_weight", "end_learning_rate"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"train.{name} must not be negative, got {getattr(self, name)}")
        if not 0.0 < self.layer_decay <= 1.0:
            raise ConfigError(f"train.layer_decay must be above 0 and at most 1, got {self.layer_decay}")
        if not 0.0 <= self.warm_up <= 1.0:
            raise ConfigError(f"train.warm_up must be a fraction of all steps, 0 to 1, got {self.warm_up}")
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
        if self.learning_rate is not None and self.end_learning_rate > self.learning_rate:
            raise ConfigError(
                f"train.end_learning_rate must be between 0 and train.learning_rate {self.learning_rate}, got "
                f"{self.end_learning_rate}"
            )
        if self.probe is not None and (self.noise_std or self.precision != "fp32"):
            raise ConfigError(
                "train.noise_std and train.precision apply to training the backbone, but train.probe freezes it"
            )
        if self.schedule == "constant" and self.end_learning_rate:
            raise ConfigError(
                "train.end_learning_rate must not be given with train.schedule=constant, which stays at "
                "train.learning_rate"
            )

    def settled(self, width: int) -> Self:
        """Return the same settings with the learning rate and the epochs that suit a model, where they were left open.

        Args:
            width: width of the atom representation.
        """
        is_small = width <= SMALL_WIDTH and self.probe is None
        rate, epochs = (SMALL_RATE, SMALL_EPOCHS) if is_small else (RATE, EPOCHS)
        return dataclasses.replace(self, learning_rate=self.learning_rate or rate, epochs=self.epochs or epochs)

    @property
    def peak_rate(self) -> float:
        """The learning rate of settings that are settled."""
        assert self.learning_rate is not None, "settled() comes first"
        return self.learning_rate

    @property
    def most_epochs(self) -> int:
        """The largest number of epochs of settings that are settled."""
        assert self.epochs is not None, "settled() comes first"
        return self.epochs

    def with_dropouts(self, model: ModelConfig) -> ModelConfig:
        """Return the configuration of a model with its dropouts replaced by those set for this training."""
        chosen = {field: getattr(self, name) for field, name in _MODEL_DROPOUTS.items()}
        return dataclasses.replace(model, **{field: value for field, value in chosen.items() if value is not None})

    @property
    def predicts_noise(self) -> bool:
        """Whether the noise on the coordinates is predicted, which needs a coordinate head."""
        return self.noise_std > 0.0 and self.noise_weight > 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig(LabelSettings, TuneSettings):
    """Settings of a fine-tuning; ``LabelSettings`` has those of the labels, ``TuneSettings`` those of a search.

    Attributes:
        data: table of SMILES and labels (CSV, Parquet), or a conformer store with labels, whose conformers are used.
        pretrained: a model in any form that ``from_pretrained`` accepts; None: random weights of ``size``.
        size: preset of the model with random weights.
        reinitialise: replace the weights of ``pretrained`` by random ones, to see what pretraining contributes.
        smiles_column: column of the SMILES in the table; None finds it by common names.
        targets: label columns; ("all",) means every numeric column.
        units: target → unit, for reports.
        task: None: classification or multilabel if all labels are 0 or 1, or are names of two classes; multiclass if
            they are names of more; otherwise regression. multiclass treats every distinct label, such as 1, 2 and 3, as
            a class and predicts a probability for each; ordinal does the same for ordered classes.
        report_units: target → unit to which its labels are converted on reading, and which scores and predictions have:
            Ha, eV, meV, kcal/mol, kJ/mol; a0^2, Å^2; a0^3, Å^3; cal/(mol K), J/(mol K). Absent: the unit of the
            data.
        atom_references: targets that are total energies: an energy per element is fitted to the training rows and
            subtracted, and the remainder is learnt and scored, as papers do with atomisation energies. Predictions are
            total energies.
        split: how rows are divided into training, validation and test rows: once, or, for kinds that end in -kfold, by
            a cross-validation, which tests every row once in each repeat.
        folds: number of folds of a cross-validation; None: 5, or with split "column-kfold" as many as the column has.
        repeats: how often a cross-validation assigns the rows to folds anew. Not for "column-kfold".
        split_column: with split "column": column with train, valid or test (in a store, a label with 0, 1 or 2); with
            "column-kfold": column with the name or number of the fold that tests the row; with "time": column of
            numbers or ISO dates; with "file": column of that file with the parts, if it is not called split.
        split_file: with split "file": table with the columns id and split, or index arrays in a torch file (.pt, such
            as PCQM4Mv2's split_dict.pt) or NumPy archive (.npz), whose numbers are ids, or rows counted from 0.
        split_parts: word in the split column or file → train, valid, test or unused; {}: the words are these already.
        valid_rows: with split "column" or "file" without validation rows: number of training rows, drawn at random,
            that become validation rows.
        fractions: fractions of train, valid and test. A cross-validation tests one fold and divides the other rows in
            the ratio of train to valid. The test fraction may be 0: then no rows are set aside and there are no scores.
        split_sizes: instead of fractions, numbers of train, valid and test rows; one of them is null, for the rest.
        label_fraction: fraction of the training rows to use, chosen by the seed; smaller sets are subsets of larger.
        inputs: what the model sees; None: the richest input it was pretrained on, or, if unknown, all that it accepts.
        hydrogens: whether hydrogens are atoms; None: as in pretraining, or no if that is not known.
        conformers: conformers per molecule. Every epoch sees a random one of them; predictions are averaged over all.
            They are generated for tables; from stores the first ones are used, or fewer if a molecule has fewer.
        pooling: how atoms become the vector of a molecule: their "mean", the "virtual_node", or "layers": mean,
            standard deviation and sum of the atoms at the start and at four depths of the stack. None: layers for a
            probe, mean otherwise.
        loss: loss of a regression, on scaled labels; None: mse. Classifiers always use the cross-entropy.
        metric: score that chooses the best epoch and is reported for the test rows: roc_auc, pr_auc, accuracy,
            balanced_accuracy, log_loss, rank_mae, rank_accuracy, quadratic_kappa, rmse, mae, r2, pearson, or
            package.module:Name of your own code. None: roc_auc for classes (with more than two, the mean of each
            against the rest), rank_mae for ordered classes, rmse for a regression.
        seeds: number of models trained on the same split, which differ in initialisation and order of rows. None: 3,
            but 1 in a cross-validation, where every fold of every repeat has its own seed, and 1 for a linear probe.
            The score of a fold is averaged over its models.
        seed: seed of the split and of the first model.
        max_atoms: molecules with more heavy atoms are refused; None: 128.
        fragments: for molecules of several fragments, such as salts: use the "largest", or "reject" the row, as
            ``curate.fragments`` of a build does. The report says how many molecules were reduced.
        skip_bad: list rows whose molecule cannot be used in ``skipped.csv`` instead of stopping with an error.
        pretraining_store: store used for pretraining, in which test molecules are counted; None: the one that the run
            names, if it exists.
        output: folder of the results; None: finetuned/<data>-<start>.
        cache: folder in which conformers are kept.
        conformer_workers: number of processes that generate conformers; None: all cores.
        device: auto, cpu or cuda.
        models_at_once: number of models to train at the same time, each in a process of its own. None: as many as
            the cores and the memory allow on a CPU, and 1 on a GPU. Scores differ slightly from those of models that
            are trained one after another, because dropout draws other numbers.
        train: settings of the training of each model.
        head: network from the molecule's vector to predictions; it starts with a layer norm, followed by: ``mlp``
            (linear, GELU, dropout, linear), ``linear`` (dropout, linear; as in D&D), or ``dense-tanh`` (dropout,
            linear, tanh, dropout, linear; as in Uni-Mol2, there with ``pooling=virtual_node``).
        baselines: fit random forests and gradient boosting on fingerprints and on RDKit descriptors to the same rows,
            and report whether the models are better.
        coverage: fraction of the labels that the intervals of a regression, or the sets of classes, should contain.
            ``predict`` can use another value.
        conformal: how intervals of a regression are made: "plain" intervals have the same width for all molecules;
            "normalised" intervals are scaled by the spread of the seeds, so they are wider where seeds disagree.
        calibration_fraction: fraction of the training rows, drawn by molecule, that is set aside only to calibrate
            these intervals; 0: they are calibrated on the validation rows, which also choose the epochs. A
            cross-validation needs none.
        domain: store the training molecules, so that ``predict`` can name the nearest one of every molecule, and say
            whether it is similar enough.
        learning_curve: also train on an eighth, a quarter and half of the labels, and plot the scores in the report.
    """

    FORMER_DEFAULTS: ClassVar[Mapping[str, Any]] = MappingProxyType(
        {"baselines": False, "seeds": SEEDS, "pooling": "mean"}  # earlier versions had no baselines, and one pooling
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
    pooling: Pooling | None = None
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
    models_at_once: int | None = None
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
            raise ConfigError("give either --from RUN_OR_CHECKPOINT, or --from none with --size NAME")
        if self.reinitialise and self.pretrained is None:
            raise ConfigError("--reinitialise needs the dimensions of a pretrained model: name it with --from")
        self._check_split()
        self.train.check_probe(self.head, self.seeds, self.loss, censored=self.censored, task=self.task)
        self.check_tune(self.train.probe)
        self._check_conformal()
        check_fractions(self.fractions)
        if self.baselines and not self.needs_test and self.split not in GIVEN_SPLITS:
            raise ConfigError(
                "the last of the fractions is 0, so there are no test rows to compare baselines on: turn baselines off "
                "with --no-baselines"
            )
        if not 0.0 < self.label_fraction <= 1.0:
            raise ConfigError(f"label_fraction must be above 0 and at most 1, got {self.label_fraction}")
        for name in (
            "seeds",
            "max_atoms",
            "conformers",
            "conformer_workers",
            "models_at_once",
            "valid_rows",
            "repeats",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        METRICS.check(self.metric, "metric")
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, got {self.seed}")
        if self.loss is not None and self.task not in (None, "regression"):
            raise ConfigError(f"loss {self.loss} applies to regression; task {self.task} uses the cross-entropy")
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
                raise ConfigError(f"{name} applies to split=column and split=file, not to split={self.split}")
        self._check_folds()
        if self.learning_curve and not self.needs_test and self.split not in GIVEN_SPLITS:
            raise ConfigError("learning_curve needs test rows, but the last of the fractions is 0")
        if (sizes := self.split_sizes) is None:
            return
        if self.split in (*GIVEN_SPLITS, *KFOLDS):
            raise ConfigError(f"split_sizes applies to a split that is computed; split={self.split} has its own")
        if len(sizes) != 3 or sizes.count(None) != 1 or any(size is not None and size < 1 for size in sizes):
            raise ConfigError(
                "split_sizes must be two numbers of rows and one null for the rest, such as [110000, 10000, null]; "
                f"got {list(sizes)}"
            )

    def _check_conformal(self) -> None:
        check_coverage(self.coverage)
        if not 0.0 <= self.calibration_fraction < 1.0:
            raise ConfigError(f"calibration_fraction must be in [0, 1), got {self.calibration_fraction}")
        if self.is_kfold and self.calibration_fraction:
            raise ConfigError(
                f"calibration_fraction applies to single splits; with split={self.split} all rows are calibration rows"
            )
        if self.conformal == "normalised" and (self.is_kfold or self.num_seeds < 2):
            raise ConfigError("conformal=normalised needs a single split and two or more seeds")

    def _check_folds(self) -> None:
        if not self.is_kfold or self.split == "column-kfold":
            for name, default in (("folds", None), ("repeats", 1)):
                if getattr(self, name) != default:
                    kinds = ", ".join(kind for kind in KFOLDS if kind != "column-kfold")
                    raise ConfigError(f"{name} applies to split={kinds}, not to split={self.split}")
        if self.folds is not None and self.folds < 2:
            raise ConfigError(f"folds must be at least 2, got {self.folds}")

    @property
    def is_kfold(self) -> bool:
        """Whether this is a cross-validation."""
        return self.split in KFOLDS

    @property
    def needs_test(self) -> bool:
        """Whether test rows must be set aside; otherwise there may be none."""
        return self.is_kfold or self.split_sizes is not None or self.fractions[2] > 0.0

    @property
    def num_seeds(self) -> int:
        """Number of models per split."""
        alike = self.is_kfold or self.train.probe == "linear"
        return self.seeds if self.seeds is not None else 1 if alike else SEEDS

    @property
    def molecule_pooling(self) -> Pooling:
        """How atoms become the vector of a molecule."""
        return self.pooling or ("layers" if self.train.probe else "mean")

    @property
    def with_choices(self) -> "FinetuneConfig":
        """The same settings with the numbers of seeds and folds, and the pooling, where they were left open."""
        folds = FOLDS if self.is_kfold and self.split != "column-kfold" and self.folds is None else self.folds
        return dataclasses.replace(self, seeds=self.num_seeds, folds=folds, pooling=self.molecule_pooling)

    @property
    def start(self) -> str:
        """Name of the starting point: the name of the run or checkpoint, or "scratch" for random weights."""
        if self.pretrained is None or self.reinitialise:
            return "scratch"
        return Path(self.pretrained).name or self.pretrained

    @property
    def folder(self) -> Path:
        """Folder of the results."""
        return self.output or Path("finetuned") / f"{self.data.name.split('.')[0]}-{self.start}"


def check_fractions(fractions: Sequence[float]) -> None:
    """Check the fractions of training, validation and test rows.

    Raises:
        ConfigError: they are not three, do not add up to 1, or one is not positive; only the last one may be 0.
    """
    if len(fractions) != 3 or min(fractions[:2]) <= 0.0 or not fractions[2] >= 0.0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise ConfigError(
            "fractions must be three positive numbers that add up to 1 (the last one, for test, may be 0), got "
            f"{list(fractions)}"
        )
