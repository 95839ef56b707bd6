"""What a fine-tuning came to, as ``results.json``, and its predictions as Parquet. Imports no torch.

Shapes: M rows, L targets.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unimol_scale import config as strict
from unimol_scale.downstream.config import MetricName, Task
from unimol_scale.downstream.rows import PREDICTED, Rows
from unimol_scale.downstream.splits import Split
from unimol_scale.store.files import commit_file, commit_text
from unimol_scale.store.schema import Float64

RESULTS_NAME = "results.json"


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
    """

    name: str
    start: str
    start_sha256: str | None
    task: Task
    metric: MetricName
    targets: tuple[str, ...]
    units: dict[str, str]
    rows: int
    unlabelled: int
    skipped: int
    split_sizes: dict[str, int]
    notes: tuple[str, ...]
    leakage: str | None
    seeds: tuple[SeedOutcome, ...]

    @property
    def mean(self) -> float:
        """Test score, mean over seeds."""
        return float(np.mean([seed.test for seed in self.seeds]))

    @property
    def std(self) -> float:
        """Its sample standard deviation over seeds; NaN of one seed."""
        return float(np.std([seed.test for seed in self.seeds], ddof=1)) if len(self.seeds) > 1 else float("nan")

    def target_mean(self, target: int) -> float | None:
        """Return the test score of one target, mean over seeds; None where it is not defined."""
        scores = [seed.test_by_target[target] for seed in self.seeds]
        there = [value for value in scores if value is not None]
        return float(np.mean(there)) if there else None

    def describe(self) -> str:
        """Return the last line of the command."""
        spread = "" if len(self.seeds) == 1 else f" ± {self.std:.2g} ({len(self.seeds)} seeds)"
        return f"{self.name} from {self.start}: test {self.metric} {self.mean:.4g}{spread}"


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
