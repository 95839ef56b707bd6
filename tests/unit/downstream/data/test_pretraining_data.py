"""Who fine-tunes on molecules larger than pretraining's is told."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tests.helpers.store_samples import random_record, write_store
from tests.helpers.tiny_finetuning import TINY

from unimol_scale.checkpoints.weights import load_pretrained, save_pretrained
from unimol_scale.downstream.data import pretraining_data
from unimol_scale.downstream.data.pretraining_data import describe_larger, pretrained_with_hydrogens, size_quantile
from unimol_scale.errors import StoreError
from unimol_scale.common.files import hash_file
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.store.shards import write_manifest


def store_of(folder, sizes, **changes):
    """Write a store of molecules of these sizes."""
    drawn = {}
    number = 0
    while not set(sizes) <= drawn.keys():
        record = random_record(number, max_atoms=max(sizes))
        drawn[len(record.atomic_number)] = record
        number += 1
    store = write_store(folder, [drawn[size] for size in sizes], [drawn[min(sizes)]], shard_rows=100)
    write_manifest(folder, dataclasses.replace(store.manifest, **changes))
    return folder


def test_molecules_beyond_almost_all_of_the_store_are_counted(tmp_path):
    # One of 200 in the store is large, which is not enough to have learnt from.
    store = store_of(tmp_path / "zinc", [*range(1, 10)] * 22 + [9, 40])
    line = describe_larger(store, np.array([8, 9, 10, 30, 41], np.int32))
    assert "of 5 molecules, 3 (60.0 %) are larger than 99 % of those in" in line
    assert f"{store} (9 heavy atoms)" in line
    assert "\n" not in line


def test_nothing_is_said_of_molecules_as_small_as_the_store_s_or_of_few(tmp_path):
    store = store_of(tmp_path / "zinc", [3, 5, 12])
    assert describe_larger(store, np.array([1, 5, 12], np.int32)) == ""
    assert describe_larger(store, np.array([13, *[12] * 19], np.int32)) == ""


def test_sizes_that_count_hydrogens_are_not_compared_and_that_is_said(tmp_path):
    store = store_of(tmp_path / "zinc", [3, 5], hydrogens=True)
    assert "because its sizes include hydrogens" in describe_larger(store, np.array([50], np.int32))


def test_a_folder_that_is_no_store_is_an_error(tmp_path):
    with pytest.raises(StoreError):
        describe_larger(tmp_path, np.array([5], np.int32))


@pytest.mark.parametrize(("share", "size"), [(0.01, 2), (0.5, 2), (0.51, 9), (0.75, 9), (0.76, 10), (1.0, 10)])
def test_a_quantile_is_the_smallest_size_that_the_share_does_not_exceed(share, size):
    assert size_quantile({"10": 1, "2": 2, "9": 1}, share) == size


def run_of(folder, store_name, sha256=None):
    """Write a run that names a store."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"data: {{path: {store_name}}}\n")
    if sha256 is not None:
        (folder / "summary.json").write_text(f'{{"data_manifest_sha256": "{sha256}"}}')
    return folder


def test_a_store_named_relative_to_where_a_run_was_started_is_found_from_everywhere(tmp_path, monkeypatch):
    store = store_of(tmp_path / "project" / "data" / "zinc", [3, 5])
    run = run_of(tmp_path / "project" / "runs" / "one", "data/zinc")
    for here in (tmp_path, tmp_path / "project"):
        monkeypatch.chdir(here)
        for place in (run, run / "model", run.relative_to(here)):
            found = pretraining_data.store_of(place)
            assert found.path is not None, (here, place)
            assert found.path.resolve() == store
            assert not found.missing


def test_another_store_of_the_same_name_is_not_taken_for_the_run_s(tmp_path, monkeypatch):
    right = store_of(tmp_path / "project" / "data" / "zinc", [3, 5])
    store_of(tmp_path / "data" / "zinc", [3, 4])
    run = run_of(tmp_path / "project" / "runs" / "one", "data/zinc", hash_file(right / "manifest.json"))
    monkeypatch.chdir(tmp_path)
    assert pretraining_data.store_of(run).path == right
    monkeypatch.chdir(tmp_path / "project")
    (right / "manifest.json").unlink()
    found = pretraining_data.store_of(run)
    assert found.path is None
    assert "the store data/zinc of" in found.missing


def test_why_no_store_is_known_is_said(tmp_path):
    assert "is not on this machine" in pretraining_data.store_of(run_of(tmp_path / "gone", tmp_path / "nowhere")).missing
    assert "not on this machine" in pretraining_data.store_of(run_of(tmp_path / "far", "s3://bucket/zinc")).missing
    assert "does not say what it was pretrained on" in pretraining_data.store_of(tmp_path / "weights").missing
    assert "`unimol-scale model card unimol-scale-2m-v2` describes" in pretraining_data.store_of(Path("unimol-scale-2m-v2")).missing


def test_a_damaged_summary_does_not_keep_a_run_from_being_used(tmp_path):
    store = store_of(tmp_path / "zinc", [3, 5])
    run = run_of(tmp_path / "one", store, "0" * 64)
    for text in ("{", "[]"):
        (run / "summary.json").write_text(text)
        assert pretraining_data.store_of(run).path == store


@pytest.mark.parametrize(
    ("setting", "stored", "seen"),
    [("as_stored", True, True), ("as_stored", False, False), ("drop", True, False), ("keep", True, True), (None, True, True)],
)
def test_a_run_of_an_earlier_version_has_seen_the_hydrogens_of_its_store(tmp_path, setting, stored, seen):
    store = store_of(tmp_path / "zinc", [3, 5], hydrogens=stored)
    torch.manual_seed(0)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), tmp_path / "run" / "model")
    data = {"path": str(store)} | ({} if setting is None else {"hydrogens": setting})
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    tree = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    del tree["hydrogens"]
    (tmp_path / "run" / "model" / "config.json").write_text(json.dumps(tree))
    assert pretrained_with_hydrogens(tmp_path / "run") is seen
    assert pretrained_with_hydrogens(str(tmp_path / "run" / "model")) is seen
    shutil.rmtree(store)
    assert pretrained_with_hydrogens(tmp_path / "run") is (None if setting in ("as_stored", None) else seen)


def test_the_model_s_own_record_goes_before_the_store(tmp_path):
    store = store_of(tmp_path / "zinc", [3, 5], hydrogens=True)
    torch.manual_seed(0)
    model = HeadedModel(TINY, DENOISE_HEADS)
    model.hydrogens = False
    save_pretrained(model, tmp_path / "run" / "model")
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump({"data": {"path": str(store)}}))
    assert pretrained_with_hydrogens(tmp_path / "run") is False
    assert load_pretrained(tmp_path / "run").hydrogens is False
    save_pretrained(load_pretrained(tmp_path / "run"), tmp_path / "exported")
    assert pretrained_with_hydrogens(tmp_path / "exported") is False
