"""Whose folder it is: a fine-tuning goes on with its own settings, data and weights, and takes nobody else's folder."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny_finetuning import SEEDS, TINY, fitting
from tests.helpers.tomorrow import add_setting
from unimol_scale import config as strict
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.common.files import hash_file
from unimol_scale.downstream.config import FinetuneConfig, FinetuneTrainConfig
from unimol_scale.downstream.finetuning import finetuning_folder, one_seed, results
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.downstream.finetuning.finetuning_folder import InputHashes
from unimol_scale.downstream.finetuning.model.saved_model import FinetunedConfig, Member, read_config
from unimol_scale.errors import ConfigError, SourceError, UnimolScaleError
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import ModelConfig


def test_a_finished_folder_is_read_and_not_made_again(finished, monkeypatch):
    config, done = finished
    monkeypatch.setattr("unimol_scale.downstream.finetuning.problem.prepare_problems.load_rows", None)
    assert finetune(config) == done
    elsewhere = dataclasses.replace(config, device="auto", cache=Path("elsewhere"), conformer_workers=3)
    assert finetune(elsewhere) == done  # where it is computed is no other fine-tuning


def test_after_a_kill_between_seeds_only_the_missing_one_is_fitted(finished, tmp_path, monkeypatch):
    config, done = finished
    shutil.copytree(config.output, tmp_path / "ft")
    cut_off = dataclasses.replace(config, output=tmp_path / "ft")
    cut_after_the_first_seed(tmp_path / "ft")
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "ft").glob("*seed-0*")}
    assert len(kept) == 3
    fitted = []
    fit = one_seed.fit
    monkeypatch.setattr(one_seed, "fit", lambda *a, **k: fitted.append(k["seed"]) or fit(*a, **k))
    again = finetune(cut_off)
    assert fitted == [1]
    assert again == done  # every bit of every score
    assert kept == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "ft").glob("*seed-0*")}
    for name in ("seed-1.safetensors", "results.json", "finetuned.json"):
        assert (tmp_path / "ft" / name).read_bytes() == (config.output / name).read_bytes(), name


def test_settings_from_before_a_key_there_is_now_are_the_same_settings(finished, tmp_path):
    config, done = finished
    shutil.copytree(config.output, tmp_path / "ft")
    text = (tmp_path / "ft" / "config.yaml").read_text()
    (tmp_path / "ft" / "config.yaml").write_text(text.replace("  precision: fp32\n", ""))
    assert finetune(dataclasses.replace(config, output=tmp_path / "ft")) == done
    with pytest.raises(ConfigError, match=r"\(before → now\):\n  train\.precision: fp32 → bf16\nChoose another"):
        finetune(dataclasses.replace(config, output=tmp_path / "ft", train=fitting(epochs=4, precision="bf16")))


def become_tomorrow(patch):
    """Give every dataclass that a fine-tuning keeps in its folder a setting more."""
    add_setting(patch, FinetuneConfig, "ensemble", str, "mean")
    add_setting(patch, FinetuneTrainConfig, "momentum_decay", float, 0.0)
    add_setting(patch, ModelConfig, "gate", str, "none")
    add_setting(patch, InputHashes, "splits", str | None, None)
    for kind in (Member, FinetunedConfig, results.SeedResult, results.FinetuneResult):
        add_setting(patch, kind, "remark", str, "")


def cut_after_the_first_seed(folder):
    for path in folder.glob("*"):
        if path.name in ("results.json", "finetuned.json", "report.md") or "seed-1" in path.name:
            path.unlink()


def test_yesterdays_fine_tuning_is_read_and_goes_on_tomorrow(finished, tmp_path, monkeypatch):
    config, done = finished
    shutil.copytree(config.output, tmp_path / "ft")
    cut_after_the_first_seed(tmp_path / "ft")
    become_tomorrow(monkeypatch)
    assert finetune(dataclasses.replace(config, ensemble="mean")).mean == done.mean
    assert read_config(config.output).model.gate == "none"
    fitted = []
    fit = one_seed.fit
    monkeypatch.setattr(one_seed, "fit", lambda *a, **k: fitted.append(k["seed"]) or fit(*a, **k))
    again = finetune(dataclasses.replace(config, output=tmp_path / "ft", ensemble="mean"))
    assert fitted == [1]
    assert [seed.test for seed in again.seeds] == [seed.test for seed in done.seeds]
    with pytest.raises(ConfigError, match=r"\n  ensemble: mean → median\nChoose another"):
        finetune(dataclasses.replace(config, ensemble="median"))


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (FinetuneConfig, "ensemble", "config.yaml:"),
        (InputHashes, "splits", "inputs.json was written by a newer version"),
        (Member, "remark", "seed-0.json: member.remark: unknown key 'remark', so a newer version"),
        (ModelConfig, "gate", "finetuned.json: model.gate: unknown key 'gate', so a newer version"),
        (results.FinetuneResult, "remark", "results.json: remark: unknown key 'remark', so a newer version"),
    ],
)
def test_what_a_newer_version_fine_tuned_is_named_and_called_that(settings, kind, name, said):
    config = settings(seeds=1)
    with pytest.MonkeyPatch.context() as patch:
        add_setting(patch, kind, name, str | None, None)
        finetune(settings(seeds=1))
    if kind is Member:  # of an unfinished one
        (config.output / "results.json").unlink()
    with pytest.raises(UnimolScaleError) as caught:
        read_config(config.output) if kind is ModelConfig else finetune(config)
    assert said in str(caught.value)
    assert "newer version of unimol-scale" in str(caught.value)
    assert name in str(caught.value)


def test_seeds_can_be_added_to_a_finished_fine_tuning(finished, tmp_path, monkeypatch):
    config, done = finished
    shutil.copytree(config.output, tmp_path / "ft")
    fitted = []
    fit = one_seed.fit
    monkeypatch.setattr(one_seed, "fit", lambda *a, **k: fitted.append(k["seed"]) or fit(*a, **k))
    more = dataclasses.replace(config, output=tmp_path / "ft", seeds=SEEDS + 1)
    longer = finetune(more)
    assert fitted == [SEEDS]
    assert longer.seeds[:SEEDS] == done.seeds
    assert len(read_config(tmp_path / "ft").members) == SEEDS + 1
    assert f"over {SEEDS + 1} seeds" in (tmp_path / "ft" / "report.md").read_text()
    assert finetune(more) == longer
    assert fitted == [SEEDS]


def test_an_interrupted_fine_tuning_can_be_finished_with_fewer_seeds(finished, tmp_path):
    config, done = finished
    shutil.copytree(config.output, tmp_path / "ft")
    cut_after_the_first_seed(tmp_path / "ft")
    short = finetune(dataclasses.replace(config, output=tmp_path / "ft", seeds=1))
    assert short.seeds == done.seeds[:1]
    assert len(read_config(tmp_path / "ft").members) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train": fitting(epochs=5)}, "train.epochs: 4 → 5"),
        ({"split": "scaffold", "seeds": 1}, "split: random → scaffold\n  seeds: 2 → 1"),
        ({"split": "scaffold", "seeds": 3}, "split: random → scaffold"),
        ({"units": {}}, "units.size: atoms → none"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_and_named(finished, change, named):
    config, _ = finished
    before = {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()}
    expected = (
        f"holds a fine-tuning with other settings (before → now):\n  {named}\nChoose another --output or remove it"
    )
    with pytest.raises(ConfigError, match=re.escape(expected)):
        finetune(dataclasses.replace(config, **change))
    assert before == {path: path.read_bytes() for path in config.output.rglob("*") if path.is_file()}


def test_data_or_weights_that_changed_under_their_name_are_refused(place, settings):
    data = place / "changing.csv"
    shutil.copy(place / "set.csv", data)
    shutil.copytree(place / "pretrained", place / "changing")
    config = settings(data=data, pretrained=str(place / "changing"), seeds=1)
    finetune(config)
    data.write_text(data.read_text().replace("CCO,2", "CCO,3"))
    with pytest.raises(ConfigError, match="started with other content of data; choose another --output"):
        finetune(config)
    shutil.copy(place / "set.csv", data)
    shutil.rmtree(place / "changing")
    torch.manual_seed(8)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), place / "changing")
    with pytest.raises(ConfigError, match="started with other content of pretrained"):
        finetune(config)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("results.json", "", r"is damaged: it is not JSON: .*; remove it and fine-tune again: the seeds are kept$"),
        ("seed-1.json", '{"member": {', r"is damaged: it is not JSON: .*; remove it and fine-tune again: only that"),
        ("seed-1.json", "{}", ": the key 'member' is required$"),
        ("inputs.json", "[]", "is damaged: it must hold a JSON object, .*; choose another --output or remove the"),
    ],
)
def test_a_damaged_file_is_named_and_what_to_do_helps(finished, tmp_path, name, content, said):
    config, done = finished
    shutil.copytree(config.output, tmp_path / "ft")
    config = dataclasses.replace(config, output=tmp_path / "ft")
    (tmp_path / "ft" / name).write_text(content)
    if name != "inputs.json":  # of an unfinished one, or of one whose end is lost
        (tmp_path / "ft" / "finetuned.json").unlink()
    if name == "seed-1.json":
        (tmp_path / "ft" / "results.json").unlink()
    with pytest.raises(ConfigError, match=rf"ft/{name}{' ' if said.startswith('is') else ''}{said}"):
        finetune(config)
    if name == "inputs.json":
        shutil.rmtree(tmp_path / "ft")
    else:
        (tmp_path / "ft" / name).unlink()
    assert finetune(config) == done


def test_a_mistake_does_not_take_the_folder(settings, tmp_path):
    with pytest.raises(SourceError, match="did you mean 'size'"):
        finetune(settings(targets=("siz",)))
    assert not (tmp_path / "ft").exists()
    finetune(settings(seeds=1))


def test_a_folder_in_which_no_seed_was_finished_takes_other_settings(settings, tmp_path, monkeypatch):
    def killed(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(one_seed, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        finetune(settings(seeds=3))
    monkeypatch.undo()
    assert (tmp_path / "ft" / "config.yaml").is_file()
    assert len(finetune(settings(seeds=1)).seeds) == 1
    assert strict.read_yaml(tmp_path / "ft" / "config.yaml")[0]["seeds"] == 1


def test_a_folder_with_something_else_is_left_alone(settings, tmp_path):
    (tmp_path / "ft").mkdir()
    (tmp_path / "ft" / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="already holds something else; choose another --output"):
        finetune(settings())
    assert [path.name for path in (tmp_path / "ft").iterdir()] == ["thesis.tex"]


def test_the_settings_of_another_program_are_not_written_over(settings, tmp_path):
    (tmp_path / "ft").mkdir()
    (tmp_path / "ft" / "config.yaml").write_text("size: 84M\n")  # as a pretraining run has them
    with pytest.raises(ConfigError, match="already holds something else; choose another --output"):
        finetune(settings())
    assert (tmp_path / "ft" / "config.yaml").read_text() == "size: 84M\n"


def test_the_hashes_of_the_inputs_are_kept(finished):
    config, done = finished
    kept = json.loads((config.output / finetuning_folder.INPUTS_NAME).read_text())
    hashes = {"data": hash_file(config.data), "pretrained": done.start_sha256}
    assert kept == {**hashes, "view": None, "split_file": None}
