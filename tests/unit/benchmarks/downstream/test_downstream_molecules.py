"""What is pretrained on beside ZINC20's tranches is written as a tranche file that the builder reads."""

import gzip

import pytest
from rdkit import Chem

from benchmarks.downstream.molecules import main
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.reader import read_source


def tranche(folder):
    config = SourceConfig(name="zinc20", input=(str(folder),))
    return [(molecule.id, molecule.smiles) for molecule in read_source(config)]


def test_structures_tables_and_lines_become_tranches_without_hydrogens(tmp_path, capsys):
    ethanol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    (tmp_path / "ligands.sdf.gz").write_bytes(gzip.compress((Chem.MolToMolBlock(ethanol) + "$$$$\n").encode()))
    (tmp_path / "tox.csv").write_text('label,smiles\n1,"c1ccccc1"\n0,not a molecule\n0,\n')
    (tmp_path / "more.v1.smi").write_text("CN first\n\nCCl\n")
    files = [str(tmp_path / name) for name in ("ligands.sdf.gz", "tox.csv", "more.v1.smi")]
    assert main([*files, "--output", str(tmp_path / "larger")]) == 0
    assert "tox.smi: 1 molecules, 2 that RDKit cannot read" in capsys.readouterr().out
    assert sorted(tranche(tmp_path / "larger")) == [
        ("900000000001", "CCO"),
        ("900000000002", "c1ccccc1"),
        ("900000000003", "CN"),
        ("900000000004", "CCl"),
    ]


def test_a_table_without_smiles_is_named(tmp_path):
    (tmp_path / "tox.csv").write_text("label,name\n1,benzene\n")
    with pytest.raises(SystemExit, match=r"tox\.csv has no column 'smiles', but label, name"):
        main([str(tmp_path / "tox.csv"), "--output", str(tmp_path / "larger")])


def test_what_can_not_be_read_is_named_before_anything_is_written(tmp_path):
    (tmp_path / "more.smi").write_text("CN\n")
    (tmp_path / "ligands.sdf").write_text("")
    for lost in ("ligands.sdf", "lost.smi"):
        with pytest.raises(SystemExit, match=rf"{lost} is no file whose name ends in \.sdf\.gz, \.csv, \.smi"):
            main([str(tmp_path / "more.smi"), str(tmp_path / lost), "--output", str(tmp_path / "larger")])
    assert not (tmp_path / "larger").exists()


def test_two_files_do_not_become_one(tmp_path):
    for name in ("more.v1.smi", "more.v2.smi"):
        (tmp_path / name).write_text("CN\n")
    with pytest.raises(SystemExit, match=r"larger/more\.smi is there already; .* rename more\.v2\.smi"):
        main([str(tmp_path / "more.v1.smi"), str(tmp_path / "more.v2.smi"), "--output", str(tmp_path / "larger")])


def test_what_is_there_already_is_not_written_over(tmp_path):
    file = tmp_path / "more.smi"
    file.write_text("CN\n")
    with pytest.raises(SystemExit, match=r"more\.smi is there already; choose another --output"):
        main([str(file), "--output", str(tmp_path)])
    assert file.read_text() == "CN\n"
