"""Samples of a build's progress: every run appends, and none spoils what another left."""

import json
from pathlib import Path

from conformer_gen.report.progress_samples import SampledProgress, SampleLog
from conformer_gen.report.stage_rates import read_rates


def test_samples_of_all_runs_stay_readable_whatever_cut_them_off(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    for cut in (b'{"seconds": 3.0, "st', b""):
        with SampleLog(path) as log, SampledProgress("generating conformers", 100, log) as progress:
            progress.skip(40)
            progress.advance(10)
        with path.open("ab") as file:
            file.write(cut)
    lines = path.read_text().splitlines()
    samples = [json.loads(line) for line in lines if line.endswith("}")]
    assert len(samples) == len(lines) - 1 == 4
    assert [sample["molecules"] for sample in samples] == [0, 10, 0, 10], "this run's own, not the 40 of another"
    assert {sample["stage"] for sample in samples} == {"generating conformers"}
    assert all(rate.stage == "generating conformers" for rate in read_rates(path))
