"""Saving in the background: what is written is the state at ``start``; no kill or full disk costs an older one."""

import errno
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.helpers.run_states import evenly, random_state
from unimol_scale.checkpoints.run import checkpoint_folder, saver, shares
from unimol_scale.checkpoints.run.saver import Saver, SaveState
from unimol_scale.checkpoints.run.shares import ShareReader

SIZES = {"first": 1000, "second": 301}
WORLD_SIZE = 2


@pytest.fixture
def gate(monkeypatch):
    """Shares are written only once it is set."""
    event = threading.Event()
    real = shares.write_share

    def gated(*arguments):
        event.wait(30)
        return real(*arguments)

    monkeypatch.setattr(saver, "write_share", gated)
    yield event
    event.set()


@pytest.fixture
def full(monkeypatch):
    """The disk of a rank is full while its number is in this set."""
    ranks = set()
    real = shares.write_share

    def refusing(folder, rank, *arguments):
        if rank in ranks:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(folder, rank, *arguments)

    monkeypatch.setattr(saver, "write_share", refusing)
    return ranks


def savers(root, **options):
    return [Saver(root, rank, WORLD_SIZE, **options) for rank in range(WORLD_SIZE)]


def save(ranks, step, state, loss=None, keep=3):
    for one, fragments in zip(ranks, evenly(state, len(ranks)), strict=True):
        one.start(step, fragments)
    assert [one.wait() for one in ranks] == [SaveState.WRITTEN] * len(ranks)
    infos = [one.publish({"validation_loss": loss}, keep=keep, keep_best=True) for one in ranks]
    assert infos[1:] == [None] * (len(ranks) - 1)
    for one in ranks:
        one.wait()
    return infos[0]


def assert_holds(folder, state):
    reader = ShareReader(folder)
    for name, kinds in state.items():
        for kind, tensor in kinds.items():
            assert torch.equal(reader.read(name, kind, 0, len(tensor)), tensor)


def test_the_state_at_start_is_saved_while_training_changes_it(tmp_path, gate):
    state, expected = random_state(SIZES), random_state(SIZES)
    ranks = savers(tmp_path)
    assert ranks[0].state is SaveState.IDLE
    for one, fragments in zip(ranks, evenly(state, WORLD_SIZE), strict=True):
        one.start(7, fragments)
        assert one.state is SaveState.WRITING
    for kinds in state.values():
        for tensor in kinds.values():
            tensor.add_(1.0)
    gate.set()
    assert [one.wait() for one in ranks] == [SaveState.WRITTEN] * 2
    info = ranks[0].publish({"validation_loss": None}, keep=3)
    assert info.step == 7
    assert_holds(checkpoint_folder.verify(info.path).path, expected)
    assert ranks[0].written_bytes == info.path.joinpath(shares.share_name(0, 2)).stat().st_size
    assert ranks[0].copy_seconds > 0.0
    assert ranks[0].write_seconds > 0.0


def test_save_after_save_in_the_same_memory_keeps_the_newest_and_the_best(tmp_path):
    ranks = savers(tmp_path)
    memory = set()
    for step, loss in ((1, 0.1), (2, 0.5), (3, 0.4), (4, 0.3)):
        info = save(ranks, step, random_state(SIZES, seed=step), loss, keep=2)
        assert_holds(info.path, random_state(SIZES, seed=step))
        memory.add(ranks[0]._buffer.data_ptr())
    assert len(memory) == 1
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["best", "latest", "step-00000001", "step-00000003", "step-00000004"]


def test_without_a_copy_all_is_written_when_start_returns(tmp_path):
    ranks = savers(tmp_path, synchronous=True)
    for one, fragments in zip(ranks, evenly(random_state(SIZES), WORLD_SIZE), strict=True):
        one.start(3, fragments)
        assert one.state is SaveState.WRITTEN
        assert one._buffer.numel() == 0
    info = ranks[0].publish({}, keep=1)
    assert_holds(info.path, random_state(SIZES))


@pytest.mark.parametrize("synchronous", [False, True])
def test_a_full_disk_of_one_rank_gives_the_save_up_and_the_next_one_succeeds(tmp_path, full, synchronous):
    ranks = savers(tmp_path, synchronous=synchronous)
    first = save(ranks, 1, random_state(SIZES, seed=1))
    full.add(1)
    for one, fragments in zip(ranks, evenly(random_state(SIZES, seed=2), WORLD_SIZE), strict=True):
        one.start(2, fragments)
    assert [one.wait() for one in ranks] == [SaveState.WRITTEN, SaveState.FAILED]
    assert "No space left on device" in ranks[1].error
    for one in ranks:
        one.discard()
        assert one.state is SaveState.IDLE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001"]
    assert checkpoint_folder.newest_valid(tmp_path) == (first, [])
    full.clear()
    assert save(ranks, 3, random_state(SIZES, seed=3)).step == 3
    assert ranks[1].error == ""


def test_a_disk_that_is_full_at_the_manifest_is_no_end_either(tmp_path, monkeypatch):
    ranks = savers(tmp_path)
    first = save(ranks, 1, random_state(SIZES, seed=1))
    for one, fragments in zip(ranks, evenly(random_state(SIZES), WORLD_SIZE), strict=True):
        one.start(2, fragments)
        one.wait()
    with monkeypatch.context() as patched:

        def refuse(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patched.setattr(checkpoint_folder, "write_json", refuse)
        assert [one.publish({}, keep=3) for one in ranks] == [None, None]
    assert "No space left" in ranks[0].error
    assert [one.wait() for one in ranks] == [SaveState.IDLE] * 2
    assert checkpoint_folder.newest_valid(tmp_path) == (first, [])
    assert list(tmp_path.glob("tmp-*")) == []
    assert save(ranks, 3, random_state(SIZES)).step == 3


def test_a_share_that_rank_0_does_not_see_is_not_published(tmp_path):
    ranks = [Saver(tmp_path / "mine", 0, 2), Saver(tmp_path / "of-another-machine", 1, 2)]
    for one, fragments in zip(ranks, evenly(random_state(SIZES), 2), strict=True):
        one.start(1, fragments)
        one.wait()
    assert ranks[0].publish({}, keep=1) is None
    assert "all ranks must write to one file system" in ranks[0].error


def test_a_mistake_in_the_program_is_not_taken_for_a_full_disk(tmp_path, monkeypatch):
    def wrong(*_: object) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr(saver, "write_share", wrong)
    one = Saver(tmp_path, 0, 1)
    one.start(1, evenly(random_state(SIZES), 1)[0])
    with pytest.raises(ValueError, match="a mistake"):
        one.wait()


# Under fire. The state after step s is random_state(LARGE, seed=s): large enough for a kill to hit a write.

LARGE = {"weights": 400_000, "bias": 1001}


def train_and_save(root: Path, first: int) -> None:
    """Save step after step until killed."""
    torch.set_num_threads(1)
    checkpoint_folder.delete_leftovers(root)
    ranks = savers(root)
    for step in range(first, first + 10_000):
        save(ranks, step, random_state(LARGE, seed=step), loss=1.0 / step, keep=2)


def test_a_kill_at_any_moment_leaves_the_newest_one_whole(tmp_path):
    draw = random.Random(0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "unimol_scale.checkpoints.run.saver"])
    step, in_a_save = 0, 0
    for _ in range(12):
        process = context.Process(target=train_and_save, args=(tmp_path, step + 1))
        process.start()
        deadline = time.monotonic() + 60
        while (newest := published(tmp_path)) <= step:
            assert time.monotonic() < deadline, "nothing was published"
            time.sleep(0.002)
        time.sleep(draw.random() * 0.15)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        in_a_save += any(tmp_path.glob("tmp-*"))
        info, problems = checkpoint_folder.newest_valid(tmp_path)
        assert problems == []
        assert info.step >= newest
        assert_holds(info.path, random_state(LARGE, seed=info.step))
        step = info.step
    assert in_a_save >= 3, "the kills missed the saves"


def published(root):
    return max((int(path.name.removeprefix("step-")) for path in root.glob("step-*")), default=0)


def test_on_a_full_disk_training_goes_on_with_the_last_good_checkpoint(small_disk):
    root = small_disk("12m")
    ranks = savers(root)
    first = save(ranks, 1, random_state(LARGE, seed=1))  # 5 MB each
    second = save(ranks, 2, random_state(LARGE, seed=2))
    for one, fragments in zip(ranks, evenly(random_state(LARGE, seed=3), WORLD_SIZE), strict=True):
        one.start(3, fragments)
    assert SaveState.FAILED in [one.wait() for one in ranks]
    assert "No space left on device" in "".join(one.error for one in ranks)
    for one in ranks:
        one.discard()
    assert sorted(path.name for path in root.iterdir()) == ["latest", first.path.name, second.path.name]
    assert checkpoint_folder.newest_valid(root) == (second, [])
    checkpoint_folder.mark_deleted(first.path)  # a person makes room
    checkpoint_folder.delete_marked(root)
    assert save(ranks, 4, random_state(LARGE, seed=4)).step == 4
