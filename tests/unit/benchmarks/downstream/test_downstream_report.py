"""The table says who beats scratch, by how much, and what the pretraining has seen of the test molecules."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.downstream import report
from unimol_scale.downstream.finetuning.results import FinetuneResult, SeedResult

ROWS = 60
LABEL_R = np.random.default_rng(1).normal(size=ROWS)
SEEN = "leakage: of 60 test molecules, 0 (0.0 %) are in data/{}, and 9 (15.0 %) have a scaffold that is"


@pytest.fixture
def cell(tmp_path):
    """Write the predictions of a fine-tuning of ESOL that errs by so much; return its cell of the table."""

    def make(start, error, *, store=None, rates=(5e-4,)):
        folder = tmp_path / f"{start}-{store}"
        folder.mkdir()
        names = [f"{row}" for row in range(ROWS)]
        table = {"split": ["test"] * ROWS, "smiles": names, "y": LABEL_R, "predicted y": LABEL_R + error}
        pq.write_table(pa.table(table), folder / "predictions-seed-0.parquet")
        seed = SeedResult(
            seed=0, valid=error, test=error, test_by_target=(error,), undefined=(), best_epoch=1, losses=(),
            valid_scores=(),
        )  # fmt: skip
        outcome = FinetuneResult(
            name="ESOL", start=start, start_sha256=None, task="regression", metric="rmse", targets=("y",), units={},
            rows=ROWS, unlabelled=0, skipped=0, split_sizes={"train": 480}, notes=(),
            leakage=SEEN.format(store) if store else None, seeds=(seed,),
        )  # fmt: skip
        return report.Cell(
            set="ESOL", start=start, fraction=1.0, scratch=store is None, outcome=outcome, folder=str(folder),
            rate=5e-4, tried=tuple(report.TriedRate(rate=r, valid=error, test=error + r) for r in rates),
        )  # fmt: skip

    return make


def test_what_beats_scratch_is_bold_and_what_was_seen_is_told_once_a_store(cell, tmp_path):
    cells = [cell("good", 1.0), cell("good", 0.5, store="zinc"), cell("bad", 2.0, store="zinc")]
    cells.append(cell("other", 0.8, store="drugs", rates=(5e-4, 1e-4)))
    starts = {name: f"runs/{name}" for name in ("good", "bad", "other")}
    path = tmp_path / "table.md"
    baselines = {("ESOL", 1.0): report.Baseline(name="ridge", test=1.5)}
    command, pairs = "python -m benchmarks.downstream.gains", [("good", "bad")]
    report.write_report(path, command, starts, cells, baselines, lambda model: "twins", pairs)
    text = path.read_text()
    assert "| 480 | 1.500 (ridge) | 1.000 | **0.500** | 2.000 | **0.800** | MoleBlend 0.831 |" in text
    assert "## good beside bad" in text
    assert "| ESOL | 100% | +75.0% (+75.0% to +75.0%); +75.0% |" in text
    assert "| ESOL | +50.0% (+50.0% to +50.0%); +50.0% | -100.0% (" in text
    seen = [line for line in text.splitlines() if "test molecules," in line]
    assert seen == [f"- ESOL: {SEEN.format(store).removeprefix('leakage: ')}" for store in ("drugs", "zinc")]
    where = "| ESOL | 100% | other |"
    rates = [line for line in text.splitlines() if line.startswith("| ESOL | 100% | ") and "+75.0%" not in line]
    assert rates == [f"{where} **0.0005** | 0.8000 | 0.8005 |", f"{where} 0.0001 | 0.8000 | 0.8001 |"]
    alone = [one for one in cells if not one.scratch]  # --no-scratch
    report.write_report(tmp_path / "pairs.md", command, starts, alone, baselines, lambda model: "twins", pairs)
    assert "Gain over scratch" not in (tmp_path / "pairs.md").read_text()
    assert "+75.0% (+75.0% to +75.0%)" in (tmp_path / "pairs.md").read_text()
    assert len(json.loads((tmp_path / "table" / "results.json").read_text())["cells"]) == 4
    assert (tmp_path / "table" / "gains.png").stat().st_size > 1000
