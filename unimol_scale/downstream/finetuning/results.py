"""What a fine-tuning came to, as ``results.json``, and its predictions as Parquet. Imports no torch.

Shapes: M rows, L targets.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale import config as strict
from unimol_scale.common.files import commit_file, commit_text
from unimol_scale.downstream.config import Task
from unimol_scale.downstream.data.rows import PREDICTED, Rows
from unimol_scale.downstream.data.splits import Split
from unimol_scale.downstream.finetuning.cautions import cautions
from unimol_scale.downstream.finetuning.registry import METRICS
from unimol_scale.store.schema import Float64

RESULTS_NAME = "results.json"
HEADLINE_TARGETS = 4  # with scores of their own in the line of a result


@dataclass(frozen=True, kw_only=True)
class SeedOutcome:
    """What one model came to.

    Attributes:
        seed: of its initialisation and order.
        valid: score of the validation rows at its best epoch.
        test: score of the test rows at that epoch.
        test_by_target: [L]; None where it is not defined.
        undefined: why, target by target.
        best_epoch: from 1.
        losses: mean training loss of each epoch.
        valid_scores: of each epoch; with several targets of a regression, in spreads of each (``Scaling.comparable``).
    """

    seed: int
    valid: float
    test: float
    test_by_target: tuple[float | None, ...]
    undefined: tuple[str, ...]
    best_epoch: int
    losses: tuple[float, ...]
    valid_scores: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a fine-tuning came to.

    Attributes:
        name: of the data.
        start: what the weights started from.
        start_sha256: that names them; None from scratch.
        task: what the labels are.
        metric: by which epochs were chosen and the test is judged.
        targets: [L] names.
        units: target → unit, where one is known.
        rows: of the data.
        unlabelled: rows with a molecule and no label.
        skipped: rows without a usable molecule.
        split_sizes: rows of train, valid and test that were used.
        notes: what else a reader of the scores should know of the data.
        leakage: a line on test molecules in the pretraining store; None where that is not known.
        seeds: one for each model.
        trivial: [L] score of predicting the mean of the training labels; empty in files of before it was kept.
        test_molecules: [L] distinct test molecules with a label; likewise.
        label_std: [L] standard deviation of the training labels of a regression; likewise.
        higher_is_better: which way the metric's up is; None in files of before it was kept, whose metric is ours.
        in_label_units: whether the metric is in the unit of the labels; likewise.
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
    seeds: tuple[SeedOutcome, ...]
    trivial: tuple[float | None, ...] = ()
    test_molecules: tuple[int, ...] = ()
    label_std: tuple[float, ...] = ()
    higher_is_better: bool | None = None
    in_label_units: bool | None = None

    @property
    def has_unit(self) -> bool:
        """Whether the metric is in the unit of the labels."""
        return METRICS[self.metric].in_label_units if self.in_label_units is None else self.in_label_units

    @property
    def prefers_high(self) -> bool:
        """Whether a higher value of the metric is better."""
        return METRICS[self.metric].higher_is_better if self.higher_is_better is None else self.higher_is_better

    @property
    def mean(self) -> float:
        """Test score, mean over seeds."""
        return float(np.mean([seed.test for seed in self.seeds]))

    @property
    def seed_std(self) -> float:
        """Its sample standard deviation over seeds, which is no error bar of the score; NaN of one seed."""
        return spread([seed.test for seed in self.seeds])

    @property
    def unit(self) -> str:
        """Unit of the score, "" for none and where it is not the same for all targets."""
        units = {self.units.get(target, "") for target in self.targets}
        return units.pop() if self.has_unit and len(units) == 1 else ""

    @property
    def has_mean(self) -> bool:
        """Whether the mean over the targets means anything: of errors it does where all have the same unit."""
        return len(self.targets) == 1 or not self.has_unit or bool(self.unit)

    def standardised(self, seed: SeedOutcome) -> float | None:
        """Return the mean error of a seed in standard deviations of the training labels; None where it is not known."""
        if not self.label_std or not self.has_unit:
            return None
        pairs = zip(seed.test_by_target, self.label_std, strict=True)
        there = [value / std for value, std in pairs if value is not None]
        return float(np.mean(there)) if there else None

    @property
    def cautions(self) -> tuple[str, ...]:
        """What must stand beside the score."""
        scores = [self.target_mean(at) for at in range(len(self.targets))]
        return cautions(
            self.metric,
            self.targets,
            scores,
            self.trivial,
            self.test_molecules,
            higher_is_better=self.prefers_high,
        )

    def target_mean(self, target: int) -> float | None:
        """Return the test score of one target, mean over seeds; None where it is not defined."""
        scores = [seed.test_by_target[target] for seed in self.seeds]
        there = [value for value in scores if value is not None]
        return float(np.mean(there)) if there else None

    def target_std(self, target: int) -> float:
        """Return the sample standard deviation over seeds of the test score of one target; NaN where there is none."""
        scores = [seed.test_by_target[target] for seed in self.seeds]
        return spread([value for value in scores if value is not None])

    def describe(self) -> str:
        """Return the result in a line: what must be known of the score stands in it."""
        seeds = "" if len(self.seeds) == 1 else f" ({len(self.seeds)} seeds)"
        unit = f" {self.unit}" if self.unit else ""
        if self.has_mean:
            result = f"test {self.metric} {plus_minus(self.mean, self.seed_std)}{unit}{seeds}"
        else:
            result = f"test {self.metric} {self._by_target()}{seeds}"
        caution = f" - CAUTION: {'; '.join(self.cautions)}" if self.cautions else ""
        return f"{self.name} from {self.start}: {result}{caution}"

    def _by_target(self) -> str:
        """Return the scores of the first targets, each in its own unit."""
        said = []
        for at, target in enumerate(self.targets[:HEADLINE_TARGETS]):
            mean, unit = self.target_mean(at), self.units.get(target, "")
            shown = "undefined" if mean is None else plus_minus(mean, self.target_std(at))
            said.append(f"{target} {shown}{f' {unit}' if unit else ''}")
        more = len(self.targets) - HEADLINE_TARGETS
        return ", ".join(said) + (f" and {more:,} more in the report" if more > 0 else "")


def spread(values: Sequence[float]) -> float:
    """Return the sample standard deviation; NaN of one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def plus_minus(mean: float, std: float) -> str:
    """Return a mean and, if there is one, a standard deviation."""
    return f"{mean:.4g}" if np.isnan(std) else f"{mean:.4g} ± {std:.2g}"


def write(folder: Path, outcome: Outcome) -> None:
    """Write ``results.json``, which ends a fine-tuning."""
    commit_text(folder / RESULTS_NAME, json.dumps(strict.to_tree(outcome), indent=1) + "\n")


def read(folder: Path) -> Outcome | None:
    """Return the outcome of a finished fine-tuning; None while it is not.

    Raises:
        ConfigError: the file is of another version.
    """
    path = folder / RESULTS_NAME
    if not path.is_file():
        return None
    return strict.build(Outcome, json.loads(path.read_text(encoding="utf-8")), strict.Origin(name=str(path)))


def write_predictions(path: Path, rows: Rows, split: Split, prediction_ML: Float64) -> None:
    """Write every row with its part, labels and predictions; null where a label or prediction is missing."""
    part_M = np.full(len(prediction_ML), "", dtype=object)
    for name in ("train", "valid", "test"):
        part_M[getattr(split, name)] = name
    columns: dict[str, pa.Array] = {
        "row": pa.array(np.arange(1, len(part_M) + 1)),
        "smiles": pa.array(list(rows.molecules.smiles)),
        "split": pa.array([part or None for part in part_M.tolist()]),
    }
    for at, target in enumerate(rows.targets):
        columns[target] = pa.array(rows.labels_ML[:, at], from_pandas=True)
        columns[f"{PREDICTED}{target}"] = pa.array(prediction_ML[:, at], from_pandas=True)
    commit_file(path, lambda temporary: pq.write_table(pa.table(columns), temporary))
