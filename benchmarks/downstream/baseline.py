"""What fingerprints reach: Morgan counts with a linear model or gradient boosting, on the rows of a fine-tuning."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegressionCV, RidgeCV

from unimol_scale.downstream.finetuning.metrics import score
from unimol_scale.downstream.finetuning.results import FinetuneResult
from unimol_scale.downstream.registry import METRICS

RADIUS, BITS = 2, 2048
ALPHAS = np.logspace(-1, 4, 11)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The better of the two by the validation rows.

    Attributes:
        name: which it was.
        test: its score of the test rows.
    """

    name: str
    test: float


def fingerprint_baseline(folder: Path, outcome: FinetuneResult) -> Baseline:
    """Fit both to the training rows of a finished fine-tuning of one target, and judge the better one."""
    table = pq.read_table(folder / f"predictions-seed-{outcome.seeds[0].seed}.parquet")
    (target,) = outcome.targets
    part = np.array(table["split"].to_pylist(), dtype=object)
    label = table[target].to_numpy(zero_copy_only=False)
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)
    smiles = table["smiles"].to_pylist()
    used = np.flatnonzero(part != None)  # noqa: E711 - an array
    count = np.stack([generator.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(smiles[row])) for row in used])
    features = np.log1p(count.astype(np.float32))
    rows = {name: part[used] == name for name in ("train", "valid", "test")}
    label = label[used]
    found: list[tuple[float, Baseline]] = []
    sign = 1.0 if METRICS[outcome.metric].higher_is_better else -1.0
    for name, predict in _models(outcome.task).items():
        prediction = predict(features[rows["train"]], label[rows["train"]], features)
        judged = {
            key: score(METRICS[outcome.metric], label[rows[key], None], prediction[rows[key], None]).value
            for key in ("valid", "test")
        }
        assert judged["valid"] is not None
        assert judged["test"] is not None
        found.append((sign * judged["valid"], Baseline(name=name, test=judged["test"])))
    return max(found, key=lambda pair: pair[0])[1]


def _models(task: str) -> dict[str, Callable[[Any, Any, Any], Any]]:
    def regressor(make: Callable[[], Any]) -> Callable[[Any, Any, Any], Any]:
        return lambda x, y, everything: make().fit(x, y).predict(everything)

    def classifier(make: Callable[[], Any]) -> Callable[[Any, Any, Any], Any]:
        def predict(x: Any, y: Any, everything: Any) -> Any:  # noqa: ANN401
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some penalties do not converge; cross-validation judges them
                return make().fit(x, y).predict_proba(everything)[:, 1]

        return predict

    if task == "regression":
        return {
            "ridge": regressor(lambda: RidgeCV(ALPHAS)),
            "boosting": regressor(lambda: HistGradientBoostingRegressor(random_state=0)),
        }
    return {
        "logistic": classifier(lambda: LogisticRegressionCV(Cs=6, cv=3, scoring="roc_auc", max_iter=300)),
        "boosting": classifier(lambda: HistGradientBoostingClassifier(random_state=0)),
    }
