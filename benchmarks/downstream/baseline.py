"""The score of the package's baselines, which need no pretraining, on the rows of a fine-tuning."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from unimol_scale.downstream.baselines.fitted_baselines import TableRows, kept_baselines
from unimol_scale.downstream.baselines.table_features import table_features
from unimol_scale.downstream.baselines.verdict_words import shown_baseline
from unimol_scale.downstream.data.splitting.parts import DataSplit
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.downstream.registry import METRICS


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The best baseline on the validation rows.

    Attributes:
        name: its name.
        test: its score on the test rows.
    """

    name: str
    test: float


def best_baseline(folder: Path, outcome: FinetuneResult) -> Baseline:
    """Fit the baselines to the training rows of a finished fine-tuning, and judge the best one by its mean.

    They are kept in the folder, and read from there the next time.
    """
    seed = outcome.seeds[0].seed
    table = pq.read_table(folder / f"predictions-seed-{seed}.parquet")
    part = np.array(table["split"].to_pylist(), dtype=object)
    train, valid, test = (np.flatnonzero(part == name) for name in ("train", "valid", "test"))
    rows = TableRows(
        smiles=[text or "" for text in table["smiles"].to_pylist()],
        targets=outcome.targets,
        task=outcome.task,
        metric=METRICS[outcome.metric],
        split=DataSplit(train=train, valid=valid, test=test),
        learnt_ML=np.stack([table[name].to_numpy(zero_copy_only=False).astype(float) for name in outcome.targets], 1),
    )
    found, _ = kept_baselines(folder, rows, lambda: table_features(rows.smiles), (seed,))
    scores = [score for score in found.of(found.chosen).test_by_target if score is not None]
    assert scores, "the models have a score of these rows"
    return Baseline(name=shown_baseline(found.chosen), test=float(np.mean(scores)))
