"""Inputs that are not files: directories, lists, scripts, tranches, URLs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.data_sets.tranches import expand_tranches
from conformer_gen.sources.inputs import locations
from conformer_gen.sources.inputs.locations import describe, locate
from conformer_gen.sources.reader import check_source, read_source
from tests.helpers.file_server import serve
from unimol_scale.common.fetching.download import FetchOptions
from unimol_scale.errors import SourceError


def zinc(*inputs: str, **keys: object) -> SourceConfig:
    return SourceConfig(name="zinc20", input=inputs, **keys)


def test_tranches_are_codes_or_patterns() -> None:
    assert expand_tranches("CDAA") == ["CDAA"]
    assert expand_tranches("[A-C]DA[AC]") == ["ADAA", "ADAC", "BDAA", "BDAC", "CDAA", "CDAC"]
    assert expand_tranches("CD[A-E]A") == ["CDAA", "CDBA", "CDCA", "CDEA"]  # reactivity has no D
    assert len(expand_tranches("????")) == 11 * 11 * 6 * 6
    assert len(set(expand_tranches("K?[ACE]B"))) == 33


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("LDAA", "L is not a valid letter for molecular weight; valid: A, B, C, D, E, F, G, H, I, J, K"),
        ("CDDA", "D is not a valid letter for reactivity; valid: A, B, C, E, G, I"),
        ("C[A-Z]AA", "Z is not a valid letter for logP"),
        ("C[D-A]AA", "the range D-A is in reverse order"),
    ],
)
def test_letters_that_a_place_does_not_have_are_named(pattern: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        locate(zinc(pattern))


def test_tranches_become_urls() -> None:
    assert locate(zinc("CD[AB]A")) == [f"http://files.docking.org/2D/CD/CD{letter}A.smi" for letter in "AB"]
    assert locate(zinc("CDAA", base_url="https://mirror/zinc/")) == ["https://mirror/zinc/CD/CDAA.smi"]
    with pytest.raises(SourceError, match="is not a tranche"):
        locate(zinc("cdaa"))
    with pytest.raises(SourceError, match="does not exist"):
        locate(SourceConfig(name="smiles", input=("CDAA",)))
    with pytest.raises(SourceError, match="ZINC22"):
        locate(zinc("https://files.docking.org/zinc22/H23P130.smi.gz"))


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    outside, inside = tmp_path / "elsewhere", tmp_path / "input"
    (outside / "deep").mkdir(parents=True)
    (inside / "own").mkdir(parents=True)
    for file in (outside / "a.smi", outside / "deep" / "b.smi", inside / "own" / "c.smi"):
        file.write_text("CCO\n")
    (inside / "linked").symlink_to(outside)
    (inside / "again").symlink_to(outside)
    (inside / "alias").symlink_to(inside / "own")
    (outside / "deep" / "round").symlink_to(inside)  # a circle
    (inside / "z.smi").symlink_to(outside / "a.smi")
    (inside / "README.md").symlink_to("nowhere")
    config = SourceConfig(name="smiles", input=(str(inside),))
    assert [Path(place).name for place in locate(config)] == ["a.smi", "b.smi", "c.smi"]
    assert [Path(place).parent.name for place in locate(config)] == ["again", "deep", "own"]


@pytest.mark.parametrize("name", ["part-2", "part-2.smi", "part-2.smi.gz"])
def test_a_link_to_nothing_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "part-1.smi").write_text("CCO\n")
    (tmp_path / name).symlink_to(tmp_path / "unmounted" / "part-2")
    with pytest.raises(SourceError, match=rf"{name} is a link to .*unmounted/part-2, which does not exist"):
        locate(SourceConfig(name="smiles", input=(str(tmp_path),)))


def test_lists_and_scripts_hold_urls_and_files(tmp_path: Path) -> None:
    (tmp_path / "here.smi").write_text("CCO 1\n")
    (tmp_path / "a.uri").write_text("# ZINC\r\nhttp://files.docking.org/2D/AA/AAAA.smi\r\n\r\nhere.smi\r\n")
    assert locate(zinc(str(tmp_path / "a.uri"))) == [
        "http://files.docking.org/2D/AA/AAAA.smi",
        str(tmp_path / "here.smi"),
    ]
    (tmp_path / "b.wget").write_text(
        "mkdir -pv AA && wget -c http://files.docking.org/2D/AA/AAAA.smi -O AA/AAAA.smi\n"
        "mkdir -pv AB && wget -c 'http://files.docking.org/2D/AB/ABAA.smi' -O AB/ABAA.smi\n"
    )
    urls = ["http://files.docking.org/2D/AA/AAAA.smi", "http://files.docking.org/2D/AB/ABAA.smi"]
    assert locate(zinc(str(tmp_path / "b.wget"))) == urls
    assert locate(zinc(str(tmp_path))) == [str(tmp_path / "here.smi")]  # lists in a directory are not followed
    (tmp_path / "c.uri").write_text("gopher://old/AAAA.smi\n")
    with pytest.raises(SourceError, match=r"c.uri lists 'gopher://old/AAAA.smi', which is neither"):
        locate(zinc(str(tmp_path / "c.uri")))


def test_a_store_tells_names_sizes_and_urls_but_no_paths(tmp_path: Path) -> None:
    (tmp_path / "here.smi").write_text("CCO 1\n")
    assert describe(zinc(str(tmp_path), "CDAA")) == [
        "here.smi (6 bytes)",
        "http://files.docking.org/2D/CD/CDAA.smi",
    ]


def test_urls_and_files_are_read_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], Path, bool]] = []

    def fetch_all(urls: Sequence[str], directory: Path, options: FetchOptions) -> Iterator[Path]:
        asked.append((list(urls), directory, options.missing_ok))
        for url in urls:
            path = tmp_path / url.rsplit("/", 1)[-1]
            path.write_text(f"C {path.stem}\n")
            yield path

    monkeypatch.setattr(locations, "fetch_all", fetch_all)
    (tmp_path / "here.smi").write_text("CCO here\n")
    config = zinc("CDA[AB]", str(tmp_path / "here.smi"), "s3://bucket/last.smi", missing_ok=True)
    check_source(config)
    assert asked == []  # looking at inputs fetches nothing
    with pytest.raises(SourceError, match="has not been downloaded"):
        next(read_source(config))
    assert [row.id for row in read_source(config, tmp_path / "d")] == ["CDAA", "CDAB", "here", "last"]
    base = "http://files.docking.org/2D/CD"
    assert asked == [
        ([f"{base}/CDAA.smi", f"{base}/CDAB.smi"], tmp_path / "d", True),
        (["s3://bucket/last.smi"], tmp_path / "d", True),
    ]


def test_tranches_come_from_a_server_and_missing_ones_are_passed_over_if_asked(tmp_path: Path) -> None:
    with serve() as server:
        for code in ("CDAA", "CDAC"):
            content = f"smiles zinc_id\n{'C' * 5} {code}\n".encode()
            server.answers[f"/2D/CD/{code}.smi"] = lambda handler, _, content=content: handler.send(content)
        base = f"{server.url}/2D"
        config = zinc("CDA[A-C]", base_url=base, missing_ok=True)
        assert [row.id for row in read_source(config, tmp_path)] == ["CDAA", "CDAC"]
        with pytest.raises(SourceError, match=r"CDAB\.smi"):
            list(read_source(zinc("CDA[A-C]", base_url=base), tmp_path / "again"))
