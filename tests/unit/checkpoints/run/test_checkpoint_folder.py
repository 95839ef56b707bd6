"""Checkpoints on disk are complete or absent, and what is damaged is never taken."""

import contextlib
import itertools
import json
import math
import os

import pytest
import torch

from tests.helpers.run_states import evenly, random_state
from unimol_scale.checkpoints.run import checkpoint_folder
from unimol_scale.checkpoints.run.checkpoint_folder import MANIFEST, read_manifest
from unimol_scale.checkpoints.run.shares import ShareReader, share_name, write_share
from unimol_scale.errors import CheckpointError

SIZES = {"first": 9, "second": 4}


def write(root, step, world_size=2):
    ranks = evenly(random_state(SIZES, seed=step), world_size)
    for rank, fragments in enumerate(ranks):
        write_share(checkpoint_folder.temporary_folder(root, step), rank, world_size, fragments)


def save(root, step, loss=None, world_size=2):
    write(root, step, world_size)
    return checkpoint_folder.publish(root, step, world_size, {"validation_loss": loss, "molecules": 1024 * step})


def steps(root):
    return sorted(int(path.name.removeprefix("step-")) for path in root.glob("step-*"))


def weights(info):
    return ShareReader(info.path).read("first", "weight", 0, 9)


def test_the_newest_is_found_and_named_latest(tmp_path):
    for step in (5, 10, 123_456_789):
        save(tmp_path, step)
    found, problems = checkpoint_folder.newest_valid(tmp_path)
    assert found.step == 123_456_789
    assert found.meta == {"validation_loss": None, "molecules": 1024 * 123_456_789}
    assert problems == []
    assert (tmp_path / "latest").read_text().strip() == found.path.name
    assert sorted(p.name for p in found.path.iterdir()) == [MANIFEST, share_name(0, 2), share_name(1, 2)]
    assert torch.equal(weights(found), random_state(SIZES, seed=123_456_789)["first"]["weight"])


def test_an_empty_folder_has_none(tmp_path):
    assert checkpoint_folder.newest_valid(tmp_path) == (None, [])
    assert checkpoint_folder.newest_valid(tmp_path / "nowhere") == (None, [])


def test_the_newest_is_found_without_latest(tmp_path):
    save(tmp_path, 5)
    save(tmp_path, 10)
    (tmp_path / "latest").unlink()  # as a kill right before it leaves the first checkpoint
    assert checkpoint_folder.newest_valid(tmp_path)[0].step == 10


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def damage_remove(path):
    path.unlink()


@pytest.mark.parametrize("name", [share_name(1, 2), MANIFEST])
@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, damage_remove])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(tmp_path, damage, name):
    save(tmp_path, 5)
    damage(save(tmp_path, 10).path / name)
    found, problems = checkpoint_folder.newest_valid(tmp_path)
    assert found.step == 5
    assert len(problems) == 1
    assert "step-00000010" in problems[0]
    assert name in problems[0]


def test_no_byte_of_a_manifest_can_change_what_it_says(tmp_path):
    info = save(tmp_path, 10, loss=0.25)
    path = info.path / MANIFEST
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1 :])
        with contextlib.suppress(CheckpointError):
            assert checkpoint_folder.verify(info.path) == info  # a space that became another


@pytest.mark.parametrize("change", [{"format_version": 99}, {"compressed": True}])
def test_one_of_a_newer_version_is_not_passed_over_as_if_it_were_damaged(tmp_path, change):
    save(tmp_path, 5)
    path = save(tmp_path, 10).path / MANIFEST
    tree = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({**tree, "sha256": checkpoint_folder.content_hash(tree)}))
    with pytest.raises(CheckpointError, match=r"step-00000010.*update unimol-scale to read"):
        checkpoint_folder.newest_valid(tmp_path)


def test_when_none_is_intact_training_does_not_silently_start_over(tmp_path):
    damage_flip(save(tmp_path, 5).path / share_name(0, 2))
    with pytest.raises(CheckpointError, match="Delete the folder to train from the start"):
        checkpoint_folder.newest_valid(tmp_path)


def test_a_checkpoint_of_an_earlier_version_is_called_that(tmp_path):
    folder = tmp_path / "step-00000010"
    folder.mkdir()
    tree = {"step": 10, "meta": {"world_size": 2}, "files": {"model.pt": {"bytes": 1, "sha256": "0"}}}
    (folder / MANIFEST).write_text(json.dumps(tree))
    with pytest.raises(CheckpointError, match="DeepSpeed's own format, which an earlier version wrote"):
        checkpoint_folder.newest_valid(tmp_path)
    (folder / MANIFEST).write_text(json.dumps({**tree, "format_version": 99}))
    with pytest.raises(CheckpointError, match=r"format_version 99 is newer than 1.*update unimol-scale"):
        checkpoint_folder.verify(folder)
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a JSON object, not a list"):
        checkpoint_folder.verify(folder)


def test_a_save_that_was_cut_off_does_not_count_and_is_cleared(tmp_path):
    save(tmp_path, 5)
    write(tmp_path, 10)
    assert checkpoint_folder.newest_valid(tmp_path)[0].step == 5
    checkpoint_folder.delete_leftovers(tmp_path)
    assert not checkpoint_folder.temporary_folder(tmp_path, 10).exists()
    assert checkpoint_folder.newest_valid(tmp_path)[0].step == 5


def test_what_an_earlier_session_left_never_mixes_into_a_save_of_the_same_step(tmp_path):
    write(tmp_path, 10, world_size=3)
    half = checkpoint_folder.temporary_folder(tmp_path, 10)
    (half / "rank").mkdir()
    (half / ".share.tmp").write_text("half")
    info = save(tmp_path, 10, world_size=2)
    assert sorted(p.name for p in info.path.iterdir()) == [MANIFEST, share_name(0, 2), share_name(1, 2)]
    assert checkpoint_folder.verify(info.path) == info
    assert ShareReader(info.path).sizes == SIZES


def test_without_the_share_of_every_rank_nothing_is_published(tmp_path):
    save(tmp_path, 5)
    write(tmp_path, 10, world_size=2)
    with pytest.raises(CheckpointError, match=r"share of rank 0 of 3 .* all ranks must write to one file system"):
        checkpoint_folder.publish(tmp_path, 10, 3, {})
    assert steps(tmp_path) == [5]


def test_a_step_that_is_saved_again_replaces_the_old_one(tmp_path):
    first = save(tmp_path, 5, loss=1.0)
    damage_remove(first.path / share_name(0, 2))
    second = save(tmp_path, 5, loss=2.0)
    assert checkpoint_folder.newest_valid(tmp_path) == (second, [])


def kept(root, newest, keep, **others):
    checkpoint_folder.prune(newest, keep, **others)
    checkpoint_folder.delete_marked(root)
    assert list(root.glob("tmp-*")) == []
    return steps(root)


def test_the_newest_and_the_best_are_kept(tmp_path):
    losses = {1: 0.5, 2: 0.1, 3: None, 4: 0.3, 5: math.nan}
    infos = [save(tmp_path, step, loss) for step, loss in losses.items()]
    assert kept(tmp_path, infos[-1], 3, keep_best=True) == [2, 3, 4, 5]
    assert (tmp_path / "best").read_text().strip() == "step-00000002"
    assert kept(tmp_path, save(tmp_path, 6, 0.05), 1, keep_best=True) == [6]
    assert (tmp_path / "best").read_text().strip() == "step-00000006"
    assert kept(tmp_path, save(tmp_path, 7, 0.4), 1, keep_best=False) == [7]


def test_steps_to_be_kept_stay_until_the_run_goes_back_before_them(tmp_path):
    infos = [save(tmp_path, step, 1.0 / step) for step in range(1, 6)]
    assert kept(tmp_path, infos[-1], 1, keep_best=True, keep_steps=(2, 4, 9)) == [2, 4, 5]
    assert kept(tmp_path, infos[-1], 0, keep_best=True, keep_steps=(2, 4)) == [2, 4]
    assert kept(tmp_path, save(tmp_path, 3, 1.0), 1, keep_best=False, keep_steps=(2, 4)) == [2, 3]


def test_without_validation_there_is_no_best(tmp_path):
    for step in (1, 2):
        newest = save(tmp_path, step)
    assert kept(tmp_path, newest, 1, keep_best=True) == [2]
    assert not (tmp_path / "best").exists()


def test_damaged_ones_of_later_steps_do_not_push_out_the_intact_one(tmp_path):
    damage_flip(save(tmp_path, 9).path / share_name(0, 2))
    assert kept(tmp_path, save(tmp_path, 5), 1, keep_best=True) == [5]


def test_what_is_being_deleted_never_looks_like_a_checkpoint(tmp_path):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    checkpoint_folder.prune(newest, 1, keep_best=False)  # and then a kill in the middle of deleting
    (half,) = tmp_path.glob("tmp-*")
    (half / share_name(0, 2)).unlink()
    assert checkpoint_folder.newest_valid(tmp_path) == (newest, [])
    checkpoint_folder.delete_marked(tmp_path)
    assert not half.exists()


class KilledError(BaseException):
    """Stands for a SIGKILL."""


def die_after(patched, operations):
    """Let the process change names and flush files so many times, and then nothing any more."""
    left = iter(range(operations))

    def mortal(function):
        def tried(*arguments, **options):
            if next(left, None) is None:
                raise KilledError
            return function(*arguments, **options)

        return tried

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir", "fsync"):
        patched.setattr(os, name, mortal(getattr(os, name)))


def test_a_kill_between_any_two_operations_leaves_the_old_one_or_the_new_one(tmp_path, monkeypatch):
    seen = set()
    for operations in itertools.count():
        root = tmp_path / str(operations)
        old = [save(root, step, world_size=1) for step in (1, 2)]
        try:
            with monkeypatch.context() as patched:
                die_after(patched, operations)
                new = save(root, 3, world_size=1)
                checkpoint_folder.prune(new, 1, keep_best=False)
                checkpoint_folder.delete_marked(root)
            break
        except KilledError:
            found, problems = checkpoint_folder.newest_valid(root)
            assert problems == []
            assert found == old[1] or found.step == 3
            assert torch.equal(weights(found), random_state(SIZES, seed=found.step)["first"]["weight"])
            assert save(root, 4, world_size=1).step == 4  # over whatever it left
            seen.add(found.step)
    assert seen == {2, 3}
    assert operations > 20
    assert steps(root) == [3]


def test_a_folder_that_can_not_be_read_is_left_for_a_person(tmp_path):
    damage_remove(save(tmp_path, 1).path / MANIFEST)
    save(tmp_path, 2)
    assert kept(tmp_path, save(tmp_path, 3), 1, keep_best=True) == [1, 3]


def test_the_hash_of_the_whole_names_it(tmp_path):
    first, second = save(tmp_path / "a", 5), save(tmp_path / "b", 5)
    assert first.sha256 == second.sha256 == read_manifest(first.path).sha256
    assert save(tmp_path / "c", 5, loss=1.0).sha256 != first.sha256
