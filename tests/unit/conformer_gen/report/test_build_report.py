"""The report counts what is in the store, shows why rows failed, and says the same of the same store."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conformer_gen.report.build_report import write_report
from conformer_gen.report.stage_rates import read_rates
from conformer_gen.report.store_counts import count_store, energy_histogram
from conformer_gen.selection.selected_rows import Selection, commit_selection
from tests.helpers.store_samples import random_record, write_store
from unimol_scale.store.manifest import Backend, Counts
from unimol_scale.store.schema import MoleculeRecord
from unimol_scale.store.shards import Store

RECORDS = [random_record(number) for number in range(23)]
NASTY = "CC|`evil`|\nC"
FAILED = [
    ("first", NASTY, "curate", "not_parsed", "this | is not a SMILES"),
    ("second", "C1CC", "embed", "no_conformer", "x" * 500),
    ("third", "C2CC", "embed", "no_conformer", "another"),
]
Finished = tuple[Store, Path, Path]


def finish(root: Path, backend: Backend = "arrow", failed: list[tuple[str, ...]] = FAILED) -> Finished:
    """A store but for its report, its failures, and the work directory of its build."""
    store = write_store(root, RECORDS[:17], RECORDS[17:], backend=backend)
    columns = [list(column) for column in zip(*failed, strict=True)] or [[] for _ in range(5)]
    names = ["id", "smiles", "stage", "reason", "detail"]
    table = pa.table({name: pa.array(column, pa.string()) for name, column in zip(names, columns, strict=True)})
    pq.write_table(table, root / "failures.parquet")
    selection = Selection(
        num_read=30,
        num_rejected=1,
        num_duplicates=4,
        num_not_sampled=7,
        num_kept=18,
        num_valid=6,
        num_scaffolds=12,
        num_single_scaffolds=5,
        scaffold_curve=((1, 9), (3, 4), (12, 1)),
        top_scaffolds={"c1ccccc1": 9, "": 4},
    )
    commit_selection(root / ".build", selection)
    return store, root / "failures.parquet", root / ".build"


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    return finish(tmp_path)


def count(values: Callable[[MoleculeRecord], np.ndarray]) -> dict[int, int]:
    codes, counts = np.unique(np.concatenate([values(record) for record in RECORDS]), return_counts=True)
    return dict(zip(codes.tolist(), counts.tolist(), strict=True))


@pytest.mark.parametrize("backend", ["arrow", "lmdb"])
def test_tallies_are_those_of_the_records(tmp_path: Path, backend: Backend) -> None:
    store, failures, _ = finish(tmp_path, backend)
    counts = count_store(store, failures, map)
    assert counts.elements == count(lambda record: record.atomic_number)
    assert list(counts.elements.values()) == sorted(counts.elements.values(), reverse=True)
    assert counts.origins == count(lambda record: record.conformer_origin)
    assert counts.stereo == count(lambda record: record.conformer_stereo)
    assert counts.conformers == count(lambda record: np.array([len(record.coordinates)]))
    assert sum(counts.sizes["train"].values()) == 17
    several = [len(record.energy) - 1 for record in RECORDS]
    assert counts.energies.sum() == sum(several)
    assert (counts.valid_scaffolds, counts.shared_scaffolds) == (6, 0)


def test_a_scaffold_on_both_sides_is_told(tmp_path: Path) -> None:
    store = write_store(tmp_path, RECORDS[:10], [RECORDS[0], *RECORDS[9:12]])
    pq.write_table(pa.table({name: pa.array([], pa.string()) for name in ("stage", "reason")}), tmp_path / "f.parquet")
    counts = count_store(store, tmp_path / "f.parquet", map)
    assert (counts.valid_scaffolds, counts.shared_scaffolds) == (4, 2)


def test_energies_are_counted_above_the_lowest_of_the_molecule() -> None:
    energy = np.array([7.0, 5.0, 5.6, 100.0, 1.0, np.nan, 2.0, 300.0, 3.0], np.float32)
    offsets = np.array([0, 3, 4, 7, 9], np.int32)  # 7 5 5.6 | 100 | 1 ? 2 | 300 3
    histogram = energy_histogram(energy, offsets)
    assert {int(at): int(histogram[at]) for at in np.flatnonzero(histogram)} == {1: 1, 4: 1, 49: 1}


def test_failures_are_counted_by_cause_with_an_example(finished: Finished) -> None:
    causes = count_store(*finished[:2], map).causes
    assert [(cause.stage, cause.reason, cause.rows, cause.id) for cause in causes] == [
        ("embed", "no_conformer", 2, "second"),
        ("curate", "not_parsed", 1, "first"),
    ]
    assert causes[1].smiles == NASTY


def test_the_report_shows_every_picture_that_it_names_and_the_numbers(finished: Finished) -> None:
    store, failures, work = finished
    counts = Counts(read=30, stored=23, duplicates=0, failed=0, not_sampled=7)
    write_report(Store(store.path, dataclasses.replace(store.manifest, counts=counts), ""), failures, work, map)
    text = (store.path / "report.md").read_text()
    named = {line.split("(")[-1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    names = ["atoms", "elements", "scaffolds", "origins", "conformers", "failures"]
    assert named == {path.name for path in store.path.glob("*.png")} == {f"{name}.png" for name in names}
    assert "30 rows read = 23 stored + " in text
    assert "7 not sampled" in text
    assert "| train | 17 | 73.9% |" in text
    assert "6 Murcko scaffolds, none of which are also in train" in text
    assert "| `c1ccccc1` | 9 |" in text
    assert "| no ring | 4 |" in text
    assert f"{sum(len(record.coordinates) for record in RECORDS) / len(RECORDS):.2f} on average" in text
    assert "| conformers | no_conformer | 2 | `second` | `C1CC` | xxx" in text
    assert "There, the stage that makes conformers is called embed." in text


def test_rows_of_a_source_do_not_break_the_tables(finished: Finished) -> None:
    write_report(*finished, map)
    lines = (finished[0].path / "report.md").read_text().splitlines()
    (row,) = [line for line in lines if "not_parsed" in line]
    assert row.replace("\\|", "").count("|") == 7
    assert "evil" in row
    assert row.count("`") == 4
    assert max(map(len, lines)) < 400


def test_the_same_store_has_the_same_report_whatever_its_rate_was(finished: Finished) -> None:
    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in finished[0].path.iterdir() if path.suffix in (".md", ".png")}

    found = []
    for speed in (1.0, 3.0):
        lines = [{"seconds": s, "stage": "generating conformers", "molecules": s * speed} for s in range(40)]
        (finished[2] / "progress.jsonl").write_text("\n".join(map(json.dumps, lines)))
        write_report(*finished, map)
        found.append(contents())
    assert found[0].pop("rate.png") != found[1].pop("rate.png")
    assert found[0] == found[1]


def test_a_store_of_one_molecule_without_failures_has_a_report(tmp_path: Path) -> None:
    _, failures, work = finish(tmp_path, failed=[])
    store = write_store(tmp_path / "one", RECORDS[:1])
    write_report(store, failures, work, map)
    text = (store.path / "report.md").read_text()
    assert "failures.png" not in text
    assert "None." in text


def progress(path: Path, *samples: tuple[float, str, int]) -> Path:
    lines = [json.dumps({"seconds": s, "stage": stage, "molecules": n}) for s, stage, n in samples]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rates_of_runs_are_laid_end_to_end(tmp_path: Path) -> None:
    first = [(10.0 + s, "embedding", 50 * s) for s in range(21)]
    # What an earlier version called embedding goes on as this stage. 900: the last 100 died with the first run.
    second = [(2.0 + s, "generating conformers", 900 + 30 * s) for s in range(41)]
    samples = [(0.0, "curating", 0), (8.0, "curating", 4000), *first, (0.5, "curating", 4000), *second]
    curating, generating = read_rates(progress(tmp_path / "p.jsonl", *samples))
    assert (curating.stage, curating.molecules, curating.rates.tolist()) == ("curating", 4000, [500.0])
    assert generating.edges[-1] == 60.0
    assert generating.resumed == (20.0,)
    assert generating.molecules == 1000 + 1200
    assert generating.rates[generating.edges[1:] <= 20] == pytest.approx(50)
    assert generating.rates[generating.edges[:-1] >= 20] == pytest.approx(30)
    assert np.sum(generating.rates * np.diff(generating.edges)) == pytest.approx(generating.molecules)


def test_a_line_that_a_kill_cut_off_is_passed_over(tmp_path: Path) -> None:
    path = progress(tmp_path / "p.jsonl", (0.0, "generating conformers", 0), (5.0, "generating conformers", 100))
    path.write_text(path.read_text() + '{"seconds": 7.0, "sta')
    with path.open("ab") as file:
        file.write(b'\n{"seconds": null}\n[1]\n\xff\xfe\0\0')
    (rate,) = read_rates(path)
    assert rate.molecules == 100
    assert read_rates(tmp_path / "absent.jsonl") == []
