"""The settings of a build under their present and their former names."""

import logging
from pathlib import Path

import pytest

from conformer_gen.chemistry.config import ConformerConfig
from conformer_gen.config import BuildConfig
from conformer_gen.run.workspace import plan_build
from conformer_gen.sources.config import SourceConfig
from unimol_scale import config as strict
from unimol_scale.cli.verbs.build import build_parser, config_of
from unimol_scale.errors import ConfigError

FORMER = """\
source: {name: sample}
embed:
  conformers: 10
  engine: rdkit
curate:
  max_atoms: 60
"""


def parse(*arguments: str) -> BuildConfig:
    return config_of(build_parser().parse_args(arguments))


@pytest.fixture
def former(tmp_path: Path) -> str:
    path = tmp_path / "former.yaml"
    path.write_text(FORMER)
    return str(path)


def test_a_file_with_former_names_means_the_same_and_is_told_the_present_ones_once(
    former: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        config = parse("--config", former)
    assert config.conformers == ConformerConfig(count=10)
    assert config.curate.max_atoms == 60
    (notice,) = [record.getMessage() for record in caplog.records]
    assert "embed.conformers is now called conformers.count" in notice
    assert "embed.engine is now called conformers.engine" in notice


def test_present_names_are_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert parse("--source", "sample", "conformers.count=3", "--engine", "rdkit").conformers.count == 3
    assert caplog.records == []


@pytest.mark.parametrize("name", ["embed.conformers", "conformers.count"])
def test_the_command_line_wins_over_the_file_whichever_name_either_has(former: str, name: str, tmp_path: Path) -> None:
    assert parse("--config", former, f"{name}=3").conformers.count == 3
    assert parse("--config", former, "--conformers", "4").conformers.count == 4
    present = tmp_path / "present.yaml"
    present.write_text("source: {name: sample}\nconformers: {count: 5}\n")
    assert parse("--config", str(present), f"{name}=3").conformers.count == 3


def test_a_setting_with_other_values_under_both_names_is_an_error(former: str) -> None:
    with pytest.raises(ConfigError, match=r"^command line: embed\.conformers is the former name of conformers\.count"):
        parse("--source", "sample", "embed.conformers=3", "conformers.count=2")
    Path(former).write_text(FORMER + "conformers: {count: 2, hydrogens: true}\n")
    with pytest.raises(ConfigError, match=r"former\.yaml:3: embed\.conformers .* different values, 10 and 2"):
        parse("--config", former)
    Path(former).write_text(FORMER + "conformers: {count: 10, hydrogens: true}\n")
    assert parse("--config", former).conformers == ConformerConfig(count=10, hydrogens=True)


def test_a_wrong_value_under_a_former_name_is_found_in_its_line(former: str) -> None:
    Path(former).write_text(FORMER.replace("10", "300"))
    with pytest.raises(ConfigError, match=r"former\.yaml:3: .*conformers\.count must be 1 to 255"):
        parse("--config", former)


def test_a_tree_of_python_with_former_names_means_the_same() -> None:
    tree = {"source": {"name": "sample"}, "embed": {"conformers": 2, "hydrogens": True}}
    assert strict.build(BuildConfig, tree, strict.Origin(name="Python")).conformers == ConformerConfig(
        count=2, hydrogens=True
    )
    assert set(tree) == {"source", "embed"}, "what the caller gave stays as it is"


def test_behind_input_a_former_name_is_a_setting_and_no_file() -> None:
    arguments = build_parser().parse_args(["--source", "smiles", "--input", "a.smi", "embed.hydrogens=true"])
    assert (arguments.input, arguments.assignments) == (["a.smi"], ["embed.hydrogens=true"])


def test_manifests_name_the_settings_of_conformers_as_they_always_did() -> None:
    plan = plan_build(BuildConfig(source=SourceConfig(name="sample"), conformers=ConformerConfig(count=3)))
    assert plan["conformer_recipe"] == {
        "conformers": 3,
        "attempts": 16,
        "timeout_s": 30,
        "max_iterations": 2000,
        "stereo": "drop",
        "energy_window": None,
        "rmsd_prune": None,
        "engine": "rdkit",
        "method": "ETKDGv3, MMFF94, else UFF, else as embedded",
    }
