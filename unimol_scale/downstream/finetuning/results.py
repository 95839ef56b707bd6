"""Results of a fine-tuning: ``results.json``, and predictions as Parquet. Imports no torch.

Shapes: M rows, L targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import unimol_scale.config as strict
from unimol_scale.common.files import commit_file
from unimol_scale.common.text.json_files import write_json
from unimol_scale.downstream.baselines.baseline_results import BaselineResults
from unimol_scale.downstream.baselines.verdict_words import advise_worse, verdict_sentence
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.data.splitting.parts import DataSplit, Fold
from unimol_scale.downstream.finetuning.cautions import cautions
from unimol_scale.downstream.finetuning.finetuning_folder import RESULTS_NAME, read_recorded
from unimol_scale.downstream.finetuning.labelled_rows import BOUND, CONFORMER_SPREAD, PREDICTED, Rows
from unimol_scale.downstream.finetuning.tuning.trials import TuneResult
from unimol_scale.downstream.fold_statistics import Interval, corrected_interval
from unimol_scale.downstream.labels.outputs import Outputs
from unimol_scale.downstream.registry import METRICS
from unimol_scale.downstream.uncertainty.confidence_results import ConfidenceResults
from unimol_scale.store.schema import Float64

_REMEDY = "remove it and fine-tune again: the seeds are kept"
HEADLINE_TARGETS = 4  # targets whose scores ``describe`` names


@dataclass(frozen=True, kw_only=True)
class SeedResult:
    """Results of one seed.

    Attributes:
        seed: seed of the initialisation and of the order of the rows.
        valid: score of the validation rows at the best epoch.
        test: score of the test rows at the best epoch; None: no rows were set aside for a test.
        test_by_target: [L] test score of each target; None where it is undefined.
        undefined: for each target without a score, the reason.
        best_epoch: number of the best epoch, from 1.
        losses: mean training loss of each epoch.
        valid_scores: validation score of each epoch; for a regression of several targets, of scaled labels
            (``Scaling.comparable``).
        noise_losses: loss of each epoch for predicting the noise on the coordinates; empty: the noise was not
            predicted.
        fold: fold of a cross-validation in which ``test`` was measured; None for a single split.
        split_sizes: part ("train", "valid", "test") → number of rows in the fold; empty for a single split.
        trivial: [L] test scores in the fold of predicting the mean of its training labels; empty for a single split.
        bounds: part → number of censored labels; empty: there are none.
        violated_bounds: part → number of bounds with the prediction on the wrong side; empty: there are no bounds.
        chosen: for a probe, "penalty" or "learning_rate" → value chosen on the validation rows; otherwise empty.
    """

    seed: int
    valid: float
    test: float | None
    test_by_target: tuple[float | None, ...]
    undefined: tuple[str, ...]
    best_epoch: int
    losses: tuple[float, ...]
    valid_scores: tuple[float, ...]
    noise_losses: tuple[float, ...] = ()
    fold: Fold | None = None
    split_sizes: dict[str, int] = field(default_factory=dict)
    trivial: tuple[float | None, ...] = ()
    bounds: dict[str, int] = field(default_factory=dict)
    violated_bounds: dict[str, int] = field(default_factory=dict)
    chosen: dict[str, float] = field(default_factory=dict)

    @property
    def valid_scaled(self) -> float:
        """Validation score at the best epoch; for a regression of several targets, of scaled labels."""
        return self.valid_scores[self.best_epoch - 1]


@dataclass(frozen=True, kw_only=True)
class FinetuneResult:
    """Results of a fine-tuning over all seeds, or over all folds of a cross-validation.

    Attributes:
        name: name of the data.
        start: name of the starting model.
        start_sha256: SHA-256 of the starting weights; None for random weights.
        task: kind of the labels.
        metric: name of the metric that chose the best epoch and is reported for the test rows.
        targets: [L] names.
        units: target → unit, for targets with a known unit.
        rows: number of rows in the data.
        unlabelled: number of rows with a usable molecule but no label.
        skipped: number of rows without a usable molecule.
        split_sizes: part → number of used rows; for a cross-validation, in its first fold.
        notes: what a reader of the scores should know about the data.
        leakage: a line on test molecules in the pretraining store; None if this is unknown.
        seeds: results of each model: one per seed for a single split; one or more per fold of each repeat for a
            cross-validation.
        trivial: [L] scores of predicting the mean of the training labels; for a cross-validation, means over folds;
            empty in files older than this key.
        test_molecules: [L] numbers of distinct labelled test molecules, over all folds; empty in files older than this
            key.
        label_std: [L] standard deviations of the training labels of a regression; for a cross-validation, in its first
            fold; empty in files older than this key.
        higher_is_better: whether a higher value of the metric is better; None in older files, which know only
            built-in metrics.
        in_label_units: whether the metric is in the unit of the labels; None in older files.
        baselines: models without pretraining fitted to the same rows, and their differences from the fine-tuned models;
            None if they were turned off, or in older files.
        classes: target → names of its classes in the order of their numbers; without targets that are numbers, or 0
            and 1.
        row_counts: numbers of used, skipped and unlabelled rows (``count_rows``); empty in files older than this key.
        confidence: reliability of the predictions, measured on the test rows; None in older files.
        tuning: the hyperparameter search, or one per fold; empty: there was none.
    """

    name: str
    start: str
    start_sha256: str | None
    task: Task
    metric: str
    targets: tuple[str, ...]
    units: dict[str, str]
    rows: int
    unlabelled: int
    skipped: int
    split_sizes: dict[str, int]
    notes: tuple[str, ...]
    leakage: str | None
    seeds: tuple[SeedResult, ...]
    trivial: tuple[float | None, ...] = ()
    test_molecules: tuple[int, ...] = ()
    label_std: tuple[float, ...] = ()
    higher_is_better: bool | None = None
    in_label_units: bool | None = None
    baselines: BaselineResults | None = None
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    row_counts: dict[str, int] = field(default_factory=dict)
    confidence: ConfidenceResults | None = None
    tuning: tuple[TuneResult, ...] = ()

    @property
    def outputs(self) -> Outputs:
        """The outputs of the models for a molecule."""
        return Outputs(task=self.task, targets=self.targets, classes=self.classes)

    @property
    def has_unit(self) -> bool:
        """Whether the metric is in the unit of the labels."""
        return METRICS[self.metric].in_label_units if self.in_label_units is None else self.in_label_units

    @property
    def prefers_high(self) -> bool:
        """Whether a higher value of the metric is better."""
        return METRICS[self.metric].higher_is_better if self.higher_is_better is None else self.higher_is_better

    @property
    def folds(self) -> tuple[Fold, ...]:
        """Folds of all repeats in order; empty for a single split."""
        return tuple(dict.fromkeys(seed.fold for seed in self.seeds if seed.fold is not None))

    @property
    def num_repeats(self) -> int:
        """Repeats of a cross-validation; 0 for a single split."""
        return len({fold.repeat for fold in self.folds})

    @property
    def fold_scores(self) -> tuple[float, ...]:
        """Test score of each fold, mean over its seeds."""
        return tuple(mean_test([seed for seed in self.seeds if seed.fold == fold]) for fold in self.folds)

    @property
    def test_to_train(self) -> float:
        """Ratio of test rows to rows for training and validation; for a cross-validation, the mean over folds."""
        sizes = [seed.split_sizes for seed in self.seeds if seed.fold is not None] or [self.split_sizes]
        return float(np.mean([each["test"] / (each["train"] + each["valid"]) for each in sizes]))

    @property
    def interval(self) -> Interval | None:
        """95 % interval of the mean over folds (``corrected_interval``), as far as the metric can have such values.

        None for a single split.
        """
        if not self.folds:
            return None
        interval = corrected_interval(self.fold_scores, self.test_to_train)
        if self.metric not in METRICS:  # somebody else's, which may not be installed any more
            return interval
        return interval.within(METRICS[self.metric].least, METRICS[self.metric].most)

    @property
    def mean(self) -> float:
        """Test score, mean over seeds and folds; NaN without test rows."""
        return mean_test(self.seeds)

    @property
    def seed_std(self) -> float:
        """Standard deviation of the test score over seeds and folds, which is not an error bar; NaN for one model."""
        return sample_std([seed.test for seed in self.seeds if seed.test is not None])

    @property
    def has_course(self) -> bool:
        """Whether there are epochs to show: a linear probe is solved at once."""
        return any(len(seed.losses) > 1 for seed in self.seeds)

    @property
    def has_test(self) -> bool:
        """Whether rows were set aside for a test."""
        return self.split_sizes["test"] > 0

    @property
    def unit(self) -> str:
        """Unit of the score; "" if it has none, or if the units of the targets differ."""
        units = {self.units.get(target, "") for target in self.targets}
        return units.pop() if self.has_unit and len(units) == 1 else ""

    @property
    def has_mean(self) -> bool:
        """Whether a mean over the targets makes sense; for errors, only if all targets have the same unit."""
        return len(self.targets) == 1 or not self.has_unit or bool(self.unit)

    def standardised(self, seed: SeedResult) -> float | None:
        """Return the mean error of a seed in standard deviations of the training labels; None if unknown."""
        if not self.label_std or not self.has_unit:
            return None
        pairs = zip(seed.test_by_target, self.label_std, strict=True)
        there = [value / std for value, std in pairs if value is not None]
        return float(np.mean(there)) if there else None

    @property
    def cautions(self) -> tuple[str, ...]:
        """Warnings that must be shown with the score; empty without test rows."""
        if not self.has_test:
            return ()
        scores = [self.target_mean(at) for at in range(len(self.targets))]
        return cautions(
            self.metric,
            self.targets,
            scores,
            self.trivial,
            self.test_molecules,
            higher_is_better=self.prefers_high,
            trivial_name=self.outputs.trivial,
        )

    def target_mean(self, target: int) -> float | None:
        """Return the test score of one target, mean over seeds and folds; None if it is undefined."""
        scores = [seed.test_by_target[target] for seed in self.seeds]
        there = [value for value in scores if value is not None]
        return float(np.mean(there)) if there else None

    def target_std(self, target: int) -> float:
        """Return the standard deviation over seeds of the test score of one target; NaN for fewer than two."""
        scores = [seed.test_by_target[target] for seed in self.seeds]
        return sample_std([value for value in scores if value is not None])

    def describe(self) -> str:
        """Return the result as one line, warnings included."""
        seeds = "" if len(self.seeds) == 1 else f" ({len(self.seeds)} seeds)"
        if self.folds:
            seeds = f" ({self.describe_folds()})"
        unit = f" {self.unit}" if self.unit else ""
        if not self.has_test:
            return f"{self.name} from {self.start}: {self._describe_validation()}{seeds}"
        if self.has_mean and (interval := self.interval) is not None:
            ends = f"{interval.low:.4g} to {interval.high:.4g}"
            result = f"test {self.metric} {self.mean:.4g}{unit}, 95 % interval {ends}{seeds}"
        elif self.has_mean:
            result = f"test {self.metric} {plus_minus(self.mean, self.seed_std)}{unit}{seeds}"
        else:
            result = f"test {self.metric} {self._by_target()}{seeds}"
        caution = f" - CAUTION: {'; '.join(self.cautions)}" if self.cautions else ""
        return f"{self.name} from {self.start}: {result}{caution}"

    def _describe_validation(self) -> str:
        """Return a text with the score of the validation rows, for results without test rows."""
        if self.has_mean:
            scores, unit = [seed.valid for seed in self.seeds], f" {self.unit}" if self.unit else ""
        else:
            scores, unit = [seed.valid_scaled for seed in self.seeds], " standard deviations of the training labels"
        shown = plus_minus(float(np.mean(scores)), sample_std(scores))
        return f"no test rows; {self.metric} {shown}{unit} of the validation rows, which chose the epoch"

    def describe_folds(self) -> str:
        """Return the numbers of folds and repeats as text, such as "5 folds × 2 repeats"."""
        repeats = self.num_repeats
        number = len(self.folds) // repeats
        return f"{number} folds" + (f" × {repeats} repeats" if repeats > 1 else "")

    @property
    def verdict(self) -> str:
        """A sentence that compares the models with the best baseline (95 % interval); "" without baselines."""
        if self.baselines is None:
            return ""
        courses = [(seed.best_epoch, len(seed.losses)) for seed in self.seeds]
        advice = advise_worse(courses, is_probe=any(seed.chosen for seed in self.seeds))
        return verdict_sentence(self.baselines, self.metric, self.outputs.trivial, advice)

    def _by_target(self) -> str:
        """Return the scores of the first targets, each in its own unit."""
        said = []
        for at, target in enumerate(self.targets[:HEADLINE_TARGETS]):
            mean, unit = self.target_mean(at), self.units.get(target, "")
            shown = "undefined" if mean is None else plus_minus(mean, self.target_std(at))
            said.append(f"{target} {shown}{f' {unit}' if unit else ''}")
        more = len(self.targets) - HEADLINE_TARGETS
        return ", ".join(said) + (f" and {more:,} more in the report" if more > 0 else "")


def mean_test(seeds: Sequence[SeedResult]) -> float:
    """Return the mean test score of models; NaN if none has one."""
    scores = [seed.test for seed in seeds if seed.test is not None]
    return float(np.mean(scores)) if scores else float("nan")


def sample_std(values: Sequence[float]) -> float:
    """Return the sample standard deviation; NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def plus_minus(mean: float, std: float) -> str:
    """Return a mean with its standard deviation as text; if the latter is NaN, only the mean."""
    return f"{mean:.4g}" if np.isnan(std) else f"{mean:.4g} ± {std:.2g}"


def write(folder: Path, outcome: FinetuneResult) -> None:
    """Write ``results.json``; call it last, since it marks the fine-tuning as finished."""
    write_json(folder / RESULTS_NAME, strict.to_tree(outcome))


def read(folder: Path) -> FinetuneResult | None:
    """Return the results of a finished fine-tuning; None if it is not finished.

    Raises:
        ConfigError: a newer version wrote the file, or it is damaged.
    """
    path = folder / RESULTS_NAME
    if not path.is_file():
        return None
    tree = read_recorded(path, _REMEDY)
    return strict.build(FinetuneResult, tree, strict.Origin(name=str(path), recorded=True))


def lacks_baselines(folder: Path) -> bool:
    """Return whether a finished fine-tuning has no baselines: they were turned off, or an older version wrote it."""
    tree = read_recorded(folder / RESULTS_NAME, _REMEDY)
    return "baselines" in tree and tree["baselines"] is None


def write_predictions(
    path: Path, rows: Rows, split: DataSplit, value_MW: Float64, conformer_std_MW: Float64 | None = None
) -> None:
    """Write every row with its part, labels and predictions; null where a label or prediction is missing.

    For named classes, the label and "predicted TARGET" are names, and "predicted TARGET p(CLASS)" is a probability.

    Args:
        path: path of the Parquet file.
        rows: the rows of the data.
        split: the part of each row.
        value_MW: float64 predictions, NaN for rows without one.
        conformer_std_MW: float64 standard deviations over conformers, NaN where undefined; None: no such columns.
    """
    part_M = np.full(len(value_MW), "", dtype=object)
    for name, row_R in split.parts.items():
        part_M[row_R] = name
    outputs = rows.outputs
    decided = outputs.decide(value_MW)
    columns: dict[str, pa.Array] = {
        "row": pa.array(np.arange(1, len(part_M) + 1)),
        "smiles": pa.array(list(rows.molecules.smiles)),
        "split": pa.array([part or None for part in part_M.tolist()]),
    }
    for at, target in enumerate(rows.targets):
        columns[target] = outputs.write_labels(at, rows.labels_ML[:, at])
        if rows.bounds is not None:
            bounds = [rows.bounds.describe(row, at) for row in range(len(part_M))]
            columns[f"{target}{BOUND}"] = pa.array(bounds, pa.string())
        if target in decided:
            columns[f"{PREDICTED}{target}"] = pa.array(decided[target], pa.string())
        for place in outputs.places(at):
            name = outputs.names[place]
            columns[f"{PREDICTED}{name}"] = pa.array(value_MW[:, place], from_pandas=True)
            if conformer_std_MW is not None:
                columns[f"{name}{CONFORMER_SPREAD}"] = pa.array(conformer_std_MW[:, place], from_pandas=True)
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))


def read_predictions(folder: Path, seed: int, targets: Sequence[str]) -> Float64:
    """Return the predictions of a seed's model for every row, float64 [M, L], NaN where there is none.

    If classes have names, ``targets`` must be ``Outputs.names``.
    """
    table = pq.read_table(folder / f"predictions-seed-{seed}.parquet", columns=[f"{PREDICTED}{t}" for t in targets])
    values = [table[f"{PREDICTED}{target}"].to_numpy(zero_copy_only=False).astype(np.float64) for target in targets]
    prediction_ML: Float64 = np.stack(values, axis=1)
    return prediction_ML
