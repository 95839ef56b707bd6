"""Text files read in ranges have the rows of the whole, whatever is wrong in them and wherever the ranges begin."""

import dataclasses
import gzip
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.file_range import WHOLE, FileRange
from conformer_gen.sources.frame_files.xyz import XYZ
from conformer_gen.sources.frame_settings import FramesConfig
from conformer_gen.sources.inputs import text_ranges
from conformer_gen.sources.mol2 import MOL2
from conformer_gen.sources.reader import read_files
from conformer_gen.sources.source import Source
from conformer_gen.sources.structures import SDF
from tests.helpers.frame_files import MOL2_WATER
from tests.helpers.source_rows import plain
from unimol_scale.errors import ConfigError

SOURCES = {source.name: source for source in (XYZ, SDF, MOL2)}


def frame(elements: str, distance: float, comment: str = "") -> str:
    atoms = [f"{element} {at * distance} 0 0" for at, element in enumerate(elements)]
    return "\n".join([str(len(elements)), comment, *atoms])


# Whole items, and what may stand between, in, or in the place of them.
ITEMS = {
    "xyz": [
        *(frame("HHO", 0.8 + at / 100) for at in range(3)),
        frame("HHO", 9.0),
        frame("CH", 1.1),
        frame("HO", 0.9, "name=x energy=1"),
        frame("HHO", 0.9, "name=x energy=much"),
        frame("OH", 0.9, "3"),
    ],
    "sdf": [f"{name}\n\n\n  0  0\nM  END\n$$$$" for name in ("", "name", "\ufeffname")]
    + ["M  END\n> <a>\n1\n\n$$$$ x"],
    "mol2": [MOL2_WATER[:-1], MOL2_WATER[:-1].replace("water", "*****"), "@<TRIPOS>MOLECULES x"],
}
COUNTS = ["1", " 2 ", "0", "3001", "123456789012", "1234567890123", "\u0663", "\u00a02", "\x1c1", "1 2", "-1"]
ODD = {
    "xyz": [*COUNTS, "3\n3\n3\n3", "H 0 0 0", "H 0 1 no-number", "8 0 1 1"],
    "sdf": ["$$$$", "$$$$ x", " $$$$", "$$$", "title", "M  END"],
    "mol2": ["@<TRIPOS>MOLECULE", " @<TRIPOS>MOLECULE", "@<TRIPOS>", "# by a program", "#"],
}
BEGINNING = {"xyz": "0\njunk", "sdf": "$$$$", "mol2": "# by a program"}
ODD_ANYWHERE = ["", " ", "\t\u00a0", "junk", "\ud800 no UTF-8", "\ufeffmark", "\u2028"]


@st.composite
def texts(draw: st.DrawFn, name: str) -> bytes:
    """Whole and damaged items in any order, with line ends of either kind, or of old Macs in places."""
    whole, odd = st.sampled_from(ITEMS[name]), st.sampled_from([*ODD[name], *ODD_ANYWHERE])
    pieces = draw(st.lists(st.one_of(whole, whole, odd), max_size=25))
    lines = "\n".join([*draw(st.sampled_from([[], [BEGINNING[name]]])), *pieces]).split("\n")
    ends = draw(st.sampled_from([["\n"], ["\n"], ["\r\n"], ["\n", "\n", "\r\n", "\r"]]))
    text = "".join(line + draw(st.sampled_from(ends)) for line in lines)
    mark = draw(st.sampled_from(["", "", "\ufeff"]))
    data = (mark + text).encode("utf-8", "surrogatepass")
    return data[: len(data) - draw(st.sampled_from([0, 0, 1, 7]))]


def rows_of(config: SourceConfig, path: Path, within: FileRange = WHOLE) -> list[object]:
    return [plain(row) for row in read_files(config, [path], within=within)]


def ranges_of(config: SourceConfig, path: Path, most: int) -> list[FileRange]:
    assert config.kind.ranges is not None
    return config.kind.ranges(path, config, most)


@pytest.mark.parametrize("name", SOURCES)
@given(data=st.data(), most=st.sampled_from([2, 5, 1 << 12, 1 << 12]), block=st.sampled_from([1, 13, 1 << 20]))
def test_ranges_of_a_text_have_the_rows_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject, most: int, block: int
) -> None:
    path = tmp_path_factory.getbasetemp() / f"some.{name}"
    path.write_bytes(data.draw(texts(name)))
    config = SourceConfig(name=name, input=(str(path),))
    if name == "xyz":
        group, size = data.draw(st.sampled_from([None, "name", "none", "none"])), data.draw(st.sampled_from([2, 500]))
        config = dataclasses.replace(config, frames=FramesConfig(group=group, most=size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_ranges, "BLOCK_BYTES", block)
        ranges = ranges_of(config, path, most)
    assert len(ranges) <= most
    assert [row for within in ranges for row in rows_of(config, path, within)] == rows_of(config, path)


def many(name: str) -> str:
    """Items that are worth dividing."""
    record = "\n\n\n  0  0\nM  END\n> <gap>\n1\n\n$$$$\n"
    return {
        "xyz": "".join(frame("HHO" if at % 2 else "HO", 0.8 + at / 1e4) + "\n" for at in range(200)),
        "sdf": record * 200,
        "mol2": MOL2_WATER * 200,
    }[name]


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_ranges_are_even_and_their_rows_are_numbered_through(tmp_path: Path, name: str, mark: str, end: str) -> None:
    path = tmp_path / f"many.{name}"
    path.write_text(mark + many(name), encoding="utf-8", newline=end)
    config = SourceConfig(name=name, input=(str(path),))
    ranges = ranges_of(config, path, 8)
    offsets = [within.offset for within in ranges]
    size = path.stat().st_size
    assert offsets == pytest.approx([size * at / 8 for at in range(8)], abs=size / 200)
    rows = [row for within in ranges for row in read_files(config, [path], within=within)]
    names = [f"many:{at}" for at in range(1, 201)]
    assert [row.id for row in rows] == (["water"] * 200 if name == "mol2" else names)


def tar_of(path: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(path, path.name)
    return buffer.getvalue()


@pytest.mark.parametrize("name", SOURCES)
def test_what_is_compressed_archived_or_in_another_encoding_is_one_range(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"many.{name}"
    path.write_text(many(name))
    config = SourceConfig(name=name, input=(str(path),))
    rows = rows_of(config, path)
    others = {
        f"many.{name}.gz": gzip.compress(path.read_bytes()),
        f"packed.{name}": gzip.compress(path.read_bytes()),
        "packed.tar": tar_of(path),
        f"utf16.{name}": many(name).encode("utf-16"),
    }
    for other, data in others.items():
        (tmp_path / other).write_bytes(data)
        assert ranges_of(config, tmp_path / other, 8) == [WHOLE]
    assert rows_of(config, tmp_path / "packed.tar") == rows
    for other in ("zip", "page"):
        (tmp_path / other).write_bytes({"zip": b"PK\x03\x04", "page": b"<html>"}[other] + many(name).encode())
        assert ranges_of(config, tmp_path / other, 8) == [WHOLE]


def test_a_text_with_line_ends_of_old_macs_is_divided_before_them(tmp_path: Path) -> None:
    path = tmp_path / "many.sdf"
    config = SourceConfig(name="sdf", input=(str(path),))
    path.write_text(many("sdf").replace("\n", "\r"), newline="")
    assert ranges_of(config, path, 8) == [WHOLE]
    assert len(rows_of(config, path)) == 200


def test_a_label_that_the_first_records_lack_keeps_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "many.sdf"
    path.write_text(many("sdf") * 6 + many("sdf").replace("gap", "late"))
    for label, divided in (("gap", True), ("late", False), ("none", False)):
        config = SourceConfig(name="sdf", input=(str(path),), labels={label: "eV"})
        assert (len(ranges_of(config, path, 8)) == 8) == divided


def test_ranges_need_a_reader_of_one_file() -> None:
    keys = {"suffixes": (".a",), "read_file": XYZ.read_stream, "read_range": XYZ.read_stream}
    with pytest.raises(ConfigError, match="belong together"):
        Source(name="a", **keys)
    with pytest.raises(ConfigError, match="belong together"):
        Source(name="a", **{**keys, "read_range": None}, ranges=XYZ.ranges)
    with pytest.raises(ConfigError, match="of one file"):
        Source(name="a", suffixes=(".a",), read_files=XYZ.read_stream, ranges=XYZ.ranges)
