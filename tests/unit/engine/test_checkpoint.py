"""Checkpoints on disk are complete or absent, and what is damaged is never taken."""

import pytest

from unimol_scale.engine import checkpoint
from unimol_scale.errors import CheckpointError


def save(root, step, text="weights"):
    folder = checkpoint.temporary_folder(root, step)
    (folder / "rank").mkdir(parents=True)
    names = ["model.pt", "rank/optimizer.pt"]
    for name in names:
        (folder / name).write_text(f"{text} of step {step}" * 100)
    return checkpoint.publish(root, step, checkpoint.hash_files(folder, names), {"world_size": 2})


def test_the_newest_is_found_and_named_latest(tmp_path):
    for step in (5, 10, 1000):
        save(tmp_path, step)
    found, problems = checkpoint.newest_valid(tmp_path)
    assert found.step == 1000
    assert found.meta == {"world_size": 2}
    assert problems == []
    assert (tmp_path / "latest").read_text() == found.path.name


def test_an_empty_folder_has_none(tmp_path):
    assert checkpoint.newest_valid(tmp_path) == (None, [])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-10])


def damage_remove(path):
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [(damage_flip, "SHA-256 differs"), (damage_truncate, "has"), (damage_remove, "is missing")],
)
def test_a_damaged_one_is_named_and_the_one_before_is_taken(tmp_path, damage, message):
    save(tmp_path, 5)
    damage(save(tmp_path, 10).path / "rank" / "optimizer.pt")
    found, problems = checkpoint.newest_valid(tmp_path)
    assert found.step == 5
    assert len(problems) == 1
    assert "optimizer.pt" in problems[0]
    assert message in problems[0]


def test_when_none_is_intact_training_does_not_silently_start_over(tmp_path):
    damage_flip(save(tmp_path, 5).path / "model.pt")
    with pytest.raises(CheckpointError, match="Delete the folder to train from the start"):
        checkpoint.newest_valid(tmp_path)


def test_a_save_that_was_cut_off_leaves_nothing_that_counts(tmp_path):
    save(tmp_path, 5)
    half = checkpoint.temporary_folder(tmp_path, 10)
    half.mkdir()
    (half / "model.pt").write_text("half")
    assert checkpoint.newest_valid(tmp_path)[0].step == 5
    checkpoint.prune(tmp_path, keep=3)
    assert not half.exists()


def test_a_folder_without_its_manifest_does_not_count(tmp_path):
    save(tmp_path, 5)
    (save(tmp_path, 10).path / checkpoint.MANIFEST).unlink()
    found, problems = checkpoint.newest_valid(tmp_path)
    assert found.step == 5
    assert "manifest.json" in problems[0]


def test_only_the_newest_are_kept(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]
