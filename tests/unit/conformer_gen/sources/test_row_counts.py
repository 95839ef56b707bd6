"""How many rows a source has: counted where it is small, estimated from a bounded part where it is not."""

import gzip
import random
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conformer_gen.config import BuildConfig
from conformer_gen.run.estimate import estimate
from conformer_gen.sources import row_counts
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.row_counts import count_rows
from tests.helpers.file_server import serve
from unimol_scale.common.fetching.transport import NetworkError


def lines(count: int, seed: int = 0) -> bytes:
    generator = random.Random(seed)
    return b"".join(
        f"{'CNO'[generator.randrange(3)] * generator.randrange(1, 40)} {n}\n".encode() for n in range(count)
    )


def smiles(*places: object, **keys: object) -> SourceConfig:
    return SourceConfig(name="smiles", input=tuple(map(str, places)), **keys)


def test_a_small_source_is_counted(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_bytes(lines(1000))
    (tmp_path / "b.smi.gz").write_bytes(gzip.compress(lines(234)))
    count = count_rows(smiles(tmp_path))
    assert (count.rows, count.how, count.describe()) == (1234, "", "1,234 rows")
    assert len(count.first) == 1234
    assert count_rows(smiles(tmp_path, limit=7)).rows == 7
    assert len(count_rows(smiles(tmp_path, limit=7)).first) == 7
    assert count_rows(smiles(tmp_path, sample=2000)).rows == 1234
    assert count_rows(smiles(tmp_path, sample=20)).describe() == "20 rows"


@pytest.mark.parametrize("pack", [bytes, lambda data: gzip.compress(data, 1)])
def test_a_large_source_is_estimated_from_a_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: Callable[[bytes], bytes]
) -> None:
    monkeypatch.setattr(row_counts, "ROWS_READ", 3000)
    monkeypatch.setattr(row_counts, "FILES_READ", 4)
    monkeypatch.setattr(row_counts, "SECONDS_READ", 100.0)
    rows = 0
    for number in range(10):
        size = 100_000 if number % 2 else 50_000
        rows += size
        (tmp_path / f"{number:02d}.smi").write_bytes(pack(lines(size, number)) if number < 2 else b"")
        if number >= 2:
            (tmp_path / f"{number:02d}.smi").write_bytes((tmp_path / f"{number % 2:02d}.smi").read_bytes())
    read: list[object] = []
    before = row_counts.read_files

    def counted(*arguments: object) -> object:
        for row in before(*arguments):
            read.append(row)
            yield row

    monkeypatch.setattr(row_counts, "read_files", counted)
    count = count_rows(smiles(tmp_path))
    assert rows * 0.9 < count.rows < rows * 1.1
    assert len(read) < rows / 2
    assert "of 4 of 10 files" in count.how
    assert count.describe().startswith("about ")


def test_parquet_says_itself_how_many_rows_it_has(tmp_path: Path) -> None:
    for name in "ab":
        pq.write_table(pa.table({"smiles": ["C"] * 300_000}), tmp_path / f"{name}.parquet")
    count = count_rows(SourceConfig(name="parquet", input=(str(tmp_path),)))
    assert (count.rows, count.how) == (600_000, "")
    assert len(count.first) == 2000


def test_a_dry_run_of_every_kind_of_source_measures_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("idx,smiles,homolumogap\n" + "".join(f"{n},CCO,{n}\n" for n in range(5)))
    (tmp_path / "some.csv").write_text("smiles,y\nCCO,1\nCCN,2\n")
    for source in (
        SourceConfig(name="pcqm4mv2", input=(str(tmp_path / "data.csv"),)),
        SourceConfig(name="csv", input=(str(tmp_path / "some.csv"),), labels={"y": "eV"}),
    ):
        words = estimate(BuildConfig(source=source, output=tmp_path / "store"))
        assert "would write about" in words
        assert f"would read {5 if source.name == 'pcqm4mv2' else 2} rows from" in words


def test_counting_stops_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_counts, "SECONDS_READ", 0.0)
    (tmp_path / "a.smi").write_bytes(lines(50_000))
    count = count_rows(smiles(tmp_path))
    assert count.rows == row_counts.ROWS_A_LOOK
    assert count.how.startswith("at least")


def test_of_urls_the_beginnings_of_a_few_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_counts, "REMOTE_BYTES", 2**19)
    content = lines(100_000)
    with serve() as server:
        for number in range(9):
            server.answers[f"/{number}.smi"] = lambda handler, _: handler.send(content)
        count = count_rows(smiles(*(f"{server.url}/{number}.smi" for number in range(9))))
        assert 900_000 * 0.95 < count.rows < 900_000 * 1.05
        assert len(server.requests) == row_counts.URLS_READ
    started = time.monotonic()
    with pytest.raises(NetworkError, match="none of the 1 URLs that were tried can be read at present"):
        count_rows(smiles(f"{server.url}/1.smi"))
    assert time.monotonic() - started < 60
