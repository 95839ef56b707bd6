"""Archives, and data that ends too early: what is whole is read, the rest is one row that says so."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
from pathlib import Path

import pytest

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import check_source, read_source
from unimol_scale.errors import SourceError


def read(*paths: Path, name: str = "smiles") -> list[SourceMolecule]:
    return list(read_source(SourceConfig(name=name, input=tuple(map(str, paths)))))


def random_lines(count: int) -> bytes:
    generator = random.Random(0)
    return b"".join(
        f"{''.join(generator.choice('CNO') for _ in range(20))} {number}\n".encode() for number in range(count)
    )


def tar_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.smi", "a.smi.gz", "a.smi.bz2", "a.smi.xz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_compression_is_told_by_content(tmp_path: Path, name: str, pack: object) -> None:
    (tmp_path / name).write_bytes(pack(b"CCO 12\nCCN"))
    assert [(row.id, row.smiles) for row in read(tmp_path)] == [("12", "CCO"), ("a:2", "CCN")]


@pytest.mark.parametrize(("suffix", "pack"), [(".tar", bytes), (".tar.gz", gzip.compress), (".tgz", gzip.compress)])
def test_members_of_an_archive_are_read_in_order(tmp_path: Path, suffix: str, pack: object) -> None:
    members = {
        "smiles/b.txt": b"CCO 1\nCCN 2",
        "smiles/._b.txt": b"\0\0\0",
        "README.md": b"not molecules",
        "smiles/a.txt.gz": gzip.compress(b"CCC 3\n"),
        "empty.txt": b"",
    }
    (tmp_path / f"chunk{suffix}").write_bytes(pack(tar_of(members)))
    assert [(row.id, row.smiles) for row in read(tmp_path)] == [("1", "CCO"), ("2", "CCN"), ("3", "CCC")]
    (tmp_path / f"chunk{suffix}").write_bytes(pack(tar_of({"a.md": b"CCO"})))
    with pytest.raises(SourceError, match=r"holds no \.smi"):
        read(tmp_path)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.97])
def test_a_gzip_file_that_is_cut_off_gives_its_whole_lines_and_one_problem(tmp_path: Path, part: float) -> None:
    content = random_lines(5000)
    packed = gzip.compress(content)
    path = tmp_path / "cut.smi.gz"
    path.write_bytes(packed[: int(part * len(packed))])
    *whole, last = read(path)
    lines = [f"{row.smiles} {row.id}\n".encode() for row in whole]
    assert content.startswith(b"".join(lines))
    # Deflate works in blocks, so a little less than the part may be there, and no more.
    assert part * 5000 - 1500 < len(lines) < part * 5000 + 200
    assert last.id == "cut:truncated"
    assert not last.smiles
    assert "cut off or damaged" in last.problem


def test_a_damaged_gzip_file_ends_where_the_damage_is(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(random_lines(20_000)))
    packed[len(packed) // 2] ^= 0xFF
    (tmp_path / "bad.smi.gz").write_bytes(packed)
    *whole, last = read(tmp_path / "bad.smi.gz")
    assert len(whole) > 5000
    assert last.problem


def test_an_archive_that_is_cut_off_gives_its_whole_lines_and_one_problem(tmp_path: Path) -> None:
    content = random_lines(3000)
    archive = tar_of({"a.txt": content, "b.txt": content})
    path = tmp_path / "chunk.tar.gz"
    whole_a, half_b = 512 + len(content), 512 + (len(content) + 511) // 512 * 512 + 512 + len(content) // 2
    cuts = {"in a member": half_b, "in a header": whole_a + 700, "in the first": 512 + len(content) // 2}
    for where, cut in cuts.items():
        for packed in (gzip.compress(archive)[: -len(gzip.compress(archive[cut:]))], gzip.compress(archive[:cut])):
            path.write_bytes(packed)
            rows = read(path)
            problems = [row for row in rows if row.problem]
            assert len(problems) == 1, where
            assert problems[0] is rows[-1]
            good = b"".join(f"{row.smiles} {row.id}\n".encode() for row in rows[:-1])
            assert (content + content).startswith(good)
            assert len(good) > 0.3 * len(content)


def test_the_first_lines_are_looked_at_before_anything_is_built(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.smi").write_text("CCO 1\n")
    check_source(SourceConfig(name="zinc20", input=(str(tmp_path),)))
    (tmp_path / "b.smi").write_bytes(gzip.compress(b"<html><body>Service unavailable</body>"))
    with pytest.raises(SourceError, match=r"b\.smi is a web page"):
        check_source(SourceConfig(name="zinc20", input=(str(tmp_path),)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "is an Excel workbook; save it as CSV"),
        (b"PK\x03\x04" + bytes(26) + b"a.smi", "is a zip archive; unpack it"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "is an Excel workbook; save it as CSV"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(20), "is a 7z archive"),
        (b"PAR1" + bytes(20), "is a Parquet file; rename it to end in .parquet"),
        (gzip.compress(tar_of({"a.smi": b"CCO\n"}), mtime=0), "is a tar archive; rename it to end in .tar"),
        ("CCO\nCCN\n".encode("utf-16-le"), "UTF-16 without a byte order mark; save it as UTF-8"),
        ("CCO\nCCN\n".encode("utf-16-be"), "UTF-16 without a byte order mark; save it as UTF-8"),
        (bytes(range(256)), "is not text"),
        (gzip.compress(gzip.compress(b"CCO\n", mtime=0), mtime=0), "is compressed twice; unpack it once"),
        (lzma.compress(b"CCO\n", format=lzma.FORMAT_ALONE), "is an LZMA file of the old format; unpack it"),
    ],
)
@pytest.mark.parametrize("name", ["a.smi", "a.smi.gz"])
def test_what_is_no_text_is_called_what_it_is(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_in_other_encodings_and_with_other_line_ends_is_read(tmp_path: Path, encoding: str, end: str) -> None:
    lines = [f"{'C' * (n % 60 + 1)} {n}" for n in range(20_000)]  # more than a block
    for name, pack in (("a.smi", bytes), ("a.smi.gz", gzip.compress)):
        (tmp_path / name).write_bytes(pack((end.join(lines) + end).encode(encoding)))
        assert [f"{row.smiles} {row.id}" for row in read(tmp_path / name)] == lines


@pytest.mark.parametrize(
    ("smiles", "problem"),
    [
        (b"CC\0N", "characters that are not printable ASCII"),
        (b"C\xe9C", "bytes that are not UTF-8; save the file as UTF-8"),
    ],
)
def test_a_stray_byte_costs_its_own_row(tmp_path: Path, smiles: bytes, problem: str) -> None:
    (tmp_path / "a.smi").write_bytes(b"smiles id\nCCO 1\n" + smiles + b" 2\nCCC 3\n")
    rows = read(tmp_path / "a.smi")
    assert [bool(row.problem) for row in rows] == [False, True, False]
    assert f"row 2 (line 3): the SMILES contains {problem}" in rows[1].problem
