"""Builds of yesterday's version under tomorrow's, and the other way round: the checkout is both in turn."""

import json
from pathlib import Path

import pytest

from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.chemistry.conformers import generate_conformers
from conformer_gen.config import BuildConfig
from conformer_gen.run import driver
from conformer_gen.run.in_process_executor import InProcessExecutor
from conformer_gen.sources.config import SourceConfig
from tests.helpers.tomorrow import add_setting
from unimol_scale import config as strict
from unimol_scale.common.progress import StageProgress
from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import Manifest
from unimol_scale.store.shards import open_store

SMILES = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCl", "CC#N"]


def become_tomorrow(patch: pytest.MonkeyPatch) -> None:
    add_setting(patch, CurateConfig, "charges", str, "keep")
    add_setting(patch, ConformerConfig, "macrocycles", str, "as_any")
    add_setting(patch, SourceConfig, "encoding", str, "utf-8")
    add_setting(patch, BuildConfig, "retries", int, 1)


def config_of(folder: Path, **curate: object) -> BuildConfig:
    folder.mkdir(exist_ok=True)
    (folder / "molecules.smi").write_text("".join(f"{smiles}\n" for smiles in SMILES))
    source = SourceConfig(name="smiles", input=(str(folder / "molecules.smi"),))
    return BuildConfig(source=source, curate=CurateConfig(**curate), output=folder / "store", task_size=2)


def build(config: BuildConfig, stop_at: str = "") -> driver.BuildResult:
    def generator(molecule, conformers, seed):
        if molecule.smiles == stop_at:
            raise KeyboardInterrupt
        return generate_conformers(molecule, conformers, seed)

    def show(label, total, log):
        return StageProgress(label, total)

    return driver.build(config, generator, InProcessExecutor(config, show), with_report=False)


def cut_off(config: BuildConfig) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(config, stop_at=SMILES[2])
    assert list((config.directory / ".build" / "embedded").rglob("*.arrow"))


def files(store: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.rglob("shard-*")}


def test_yesterdays_build_goes_on_and_is_known_as_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(config_of(tmp_path / "whole"))
    cut_off(config_of(tmp_path / "cut"))
    become_tomorrow(monkeypatch)
    done = build(config_of(tmp_path / "cut"))
    assert done.molecules < len(SMILES), "some were made before"
    assert files(tmp_path / "cut" / "store") == files(tmp_path / "whole" / "store")
    assert build(config_of(tmp_path / "whole")).seconds is None, "it was finished before"


def test_a_setting_that_yesterdays_build_had_not_is_refused_where_it_is_not_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(config_of(tmp_path / "whole"))
    cut_off(config_of(tmp_path / "cut"))
    become_tomorrow(monkeypatch)
    for name in ("whole", "cut"):
        with pytest.raises(
            StoreError, match=r"\n  parameters\.charges: keep → neutralise\nUse the same parameters, choose"
        ):
            build(config_of(tmp_path / name, charges="neutralise"))


def test_what_a_newer_version_built_is_named_and_called_that(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        become_tomorrow(patch)
        build(config_of(tmp_path / "whole"))
        cut_off(config_of(tmp_path / "cut"))
    for name, file in (("whole", "manifest.json"), ("cut", "plan.json")):
        with pytest.raises(
            StoreError, match=rf"{file} was written by a newer .*\n  conformer_recipe\.macrocycles: as_any\n"
        ) as caught:
            build(config_of(tmp_path / name))
        advice = "\n  parameters.charges: keep\nUpdate unimol-scale to continue with it, choose another"
        assert advice in str(caught.value)
    assert open_store(tmp_path / "whole" / "store").split("train"), "to be read it needs none of them"


def test_a_store_that_says_more_than_this_version_knows_is_a_newer_ones(tmp_path: Path) -> None:
    build(config_of(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        add_setting(patch, Manifest, "charges", str, "none")
        manifest = open_store(tmp_path / "store").manifest  # yesterday's, under tomorrow
        (tmp_path / "store" / "manifest.json").write_text(json.dumps(strict.to_tree(manifest)))
    with pytest.raises(StoreError, match=r"charges: unknown key 'charges', so a newer version .* wrote this file"):
        open_store(tmp_path / "store")


def test_where_a_default_is_not_what_was_done_before_the_build_is_another_one(tmp_path: Path) -> None:
    """The first stores of schema 2 kept radicals and flagged conformers of other stereo."""
    build(config_of(tmp_path))
    path = tmp_path / "store" / "manifest.json"
    tree = json.loads(path.read_text())
    del tree["parameters"]["radicals"], tree["conformer_recipe"]["stereo"]
    path.write_text(json.dumps(tree))
    with pytest.raises(StoreError, match=r"parameters\.radicals: keep → reject") as caught:
        build(config_of(tmp_path))
    assert "conformer_recipe.stereo: keep → drop" in str(caught.value)
