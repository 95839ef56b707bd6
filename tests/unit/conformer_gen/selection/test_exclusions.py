"""The leakage filter: what a benchmark's molecules keep out of a store, and what they do not."""

import gzip
from pathlib import Path

import pytest

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, Rejected, curate_molecule
from conformer_gen.config import BuildConfig
from conformer_gen.run.workspace import claim, plan_build
from conformer_gen.selection.exclusions import NO_EXCLUSIONS, Exclusions, describe_files, read_exclusions
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.errors import SourceError, StoreError

ALANINE = "C[C@H](N)C(=O)O"
PHENYLACETATE = "[O-]C(=O)Cc1ccccc1"


def exclusions(tmp_path: Path, by: str, *lines: str) -> Exclusions:
    path = tmp_path / "benchmark.csv"
    path.write_text("\n".join(["name,smiles", *(f"x,{line}" for line in lines)]) + "\n")
    return read_exclusions(CurateConfig(exclude=(path,), exclude_by=by))


def is_excluded(excluded: Exclusions, smiles: str) -> bool:
    curated = curate_molecule(SourceMolecule(id="x", smiles=smiles), CurateConfig())
    assert isinstance(curated, Curated)
    result = excluded.check(curated)
    assert result is curated or (isinstance(result, Rejected) and result.reason == "excluded")
    return result is not curated


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        (ALANINE, True),
        ("C[C@@H](N)C(=O)O", True),  # the other enantiomer
        ("CC([NH3+])C(=O)[O-]", True),
        ("[13CH3]C(N)C(=O)O", True),
        ("OC(=O)Cc1ccccc1.[Na+]", True),
        ("CCC(N)C(=O)O", False),
        ("Cc1ccccc1", False),  # its scaffold only
    ],
)
def test_a_molecule_is_excluded_whatever_its_stereo_isotopes_and_charges(
    tmp_path: Path, smiles: str, expected: bool
) -> None:
    assert is_excluded(exclusions(tmp_path, "molecule", ALANINE, "not-a-smiles", PHENYLACETATE), smiles) is expected


def test_a_scaffold_is_excluded_and_the_lack_of_one_is_not(tmp_path: Path) -> None:
    excluded = exclusions(tmp_path, "scaffold", ALANINE, PHENYLACETATE)
    assert is_excluded(excluded, "Cc1ccccc1")
    assert not is_excluded(excluded, "CCO")
    assert not is_excluded(excluded, ALANINE)
    assert not is_excluded(excluded, "Cc1ccncc1")


def test_both_excludes_molecules_without_rings_too(tmp_path: Path) -> None:
    excluded = exclusions(tmp_path, "both", ALANINE, PHENYLACETATE)
    assert [is_excluded(excluded, smiles) for smiles in (ALANINE, "Cc1ccccc1", "CCO")] == [True, True, False]


def test_what_was_rejected_stays_so_and_no_list_excludes_nothing() -> None:
    rejected = Rejected(reason="empty", detail="the row has no SMILES")
    assert NO_EXCLUSIONS.check(rejected) is rejected
    assert not is_excluded(NO_EXCLUSIONS, ALANINE)


def test_a_store_tells_the_list_by_name_size_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.smi"
    path.write_text("CCO\n")
    (before,) = describe_files(CurateConfig(exclude=(path,)))
    path.write_text("CCN\n")
    (after,) = describe_files(CurateConfig(exclude=(path,)))
    assert before.startswith("benchmark.smi (4 bytes, sha256 ")
    assert before != after


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            b'smiles,name\nCCO,a\nCCN,"b\nc1ccccc1O,c\n',
            r"row 2 \(line 3\): a quote in this line is not closed",
        ),
        ("a.csv", b'smiles,name\nCCO,a\nCCN,"b\nc1ccccc1O,c\nCC,"d"\n', r"line 3"),
        ("a.csv", b"smiles,y\nCCO,1,2,3\n", "4 fields, but the header has 2"),
        ("a.csv.gz", gzip.compress(b"smiles\n" + b"CCO\n" * 5000, mtime=0)[:-12], "cut off or damaged"),
        ("a.smi", b"CCO\nC\xc3\xa9C\n", "not printable ASCII"),
    ],
)
def test_a_list_that_cannot_be_read_as_a_whole_is_an_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        read_exclusions(CurateConfig(exclude=(path,)))
    assert f"--exclude {path} cannot be read as a whole" in str(error.value)


def test_rows_that_are_no_molecule_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    exclusions(tmp_path, "molecule", ALANINE, "not-a-smiles", "C(C")
    assert "RDKit cannot read 2 of 3 rows, which therefore exclude nothing: x ('not-a" in caplog.text


def test_a_list_that_excludes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no molecule"):
        exclusions(tmp_path, "both", "not-a-smiles")
    with pytest.raises(SourceError, match="is not a file"):
        describe_files(CurateConfig(exclude=(tmp_path / "missing.smi",)))
    odd = tmp_path / "list.docx"
    odd.write_text("CCO")
    with pytest.raises(SourceError, match="must end in"):
        read_exclusions(CurateConfig(exclude=(odd,)))
    odd.write_bytes(b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml")
    with pytest.raises(SourceError, match=r"--exclude .*docx is an Excel workbook; save it as CSV"):
        read_exclusions(CurateConfig(exclude=(odd,)))


def test_a_build_is_not_resumed_with_another_list(tmp_path: Path) -> None:
    listed, output = tmp_path / "benchmark.smi", tmp_path / "store"
    build = BuildConfig(source=SourceConfig(name="sample"), curate=CurateConfig(exclude=(listed,)))
    listed.write_text("CCO\n")
    plan = plan_build(build)
    assert str(tmp_path) not in str(plan)  # a store does not say on which machine it was made
    assert not claim(output, plan, task_size=500)
    assert not claim(output, plan_build(build), task_size=500)
    listed.write_text("CCN\n")
    with pytest.raises(StoreError, match=r"\n  parameters\.exclude: \['benchmark\.smi.* → \['benchmark\.smi"):
        claim(output, plan_build(build), task_size=500)


def test_a_build_of_an_earlier_version_goes_on_where_it_knew_no_such_setting(tmp_path: Path) -> None:
    molecules = tmp_path / "molecules.smi"
    molecules.write_text("CCO\n")
    source = SourceConfig(name="smiles", input=(str(molecules),))
    plan = plan_build(BuildConfig(source=source))
    assert plan["parameters"]["isotopes"] == "keep"
    parameters = {key: value for key, value in plan["parameters"].items() if key != "isotopes"}
    assert claim(tmp_path / "store", {**plan, "parameters": parameters}, 500) is False
    assert claim(tmp_path / "store", plan, 500) is False
    other = plan_build(BuildConfig(source=source, curate=CurateConfig(isotopes="remove")))
    with pytest.raises(StoreError, match=r"parameters\.isotopes: keep → remove"):
        claim(tmp_path / "store", other, 500)
