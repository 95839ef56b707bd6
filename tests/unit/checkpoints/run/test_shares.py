"""Shares: the same bytes every time, complete or absent, and no element read that was not written exactly once."""

import errno

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.run_states import cut, evenly, random_state
from unimol_scale.checkpoints import safetensors_writer
from unimol_scale.checkpoints.run import shares
from unimol_scale.checkpoints.run.shares import ShareReader, read_notes, share_name, write_share
from unimol_scale.common.files import hash_file
from unimol_scale.errors import CheckpointError

SIZES = {"backbone.first": 7, "backbone.second": 1, "head": 12}


@pytest.fixture
def state():
    return random_state(SIZES)


def write(folder, ranks):
    return [write_share(folder, rank, len(ranks), fragments) for rank, fragments in enumerate(ranks)]


def test_what_two_ranks_wrote_is_read_as_one(state, tmp_path):
    write(tmp_path, evenly(state, 2))
    reader = ShareReader(tmp_path)
    assert reader.kinds == {"weight", "exp_avg", "exp_avg_sq"}
    assert reader.sizes == SIZES
    for name, kinds in state.items():
        for kind, expected in kinds.items():
            assert torch.equal(reader.read(name, kind, 0, len(expected)), expected)
    assert torch.equal(reader.read("head", "exp_avg", 4, 9), state["head"]["exp_avg"][4:9])
    assert len(reader.read("head", "exp_avg", 6, 6)) == 0
    assert torch.equal(reader.full("head", "weight", (3, 4)), state["head"]["weight"].view(3, 4))


def test_shares_are_safetensors_with_a_note_of_size_and_hash_and_always_the_same_bytes(state, tmp_path):
    ranks = evenly(state, 2)
    entries = write(tmp_path / "a", ranks)
    write(tmp_path / "b", ranks)
    for rank, entry in enumerate(entries):
        first, second = (tmp_path / folder / share_name(rank, 2) for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
        assert (entry.bytes, entry.sha256) == (first.stat().st_size, hash_file(first))
        assert read_notes(tmp_path / "a", 2)[first.name] == entry
    tensors = load_file(tmp_path / "a" / share_name(1, 2))
    assert torch.equal(tensors["head/6/weight"], state["head"]["weight"][6:])


def test_tensors_longer_than_one_block_keep_their_order(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "_CHUNK", 20)  # bytes
    state = random_state({"long": 23})
    write(tmp_path, evenly(state, 1))
    assert torch.equal(ShareReader(tmp_path).read("long", "weight", 0, 23), state["long"]["weight"])


def test_a_rank_may_own_nothing(state, tmp_path):
    write(tmp_path, [*evenly(state, 1), []])
    assert ShareReader(tmp_path).sizes == SIZES


def test_a_gap_and_an_overlap_are_named(state, tmp_path):
    fragments = cut({"head": state["head"]}, {"head": [0, 4, 9, 12]})
    write(tmp_path / "gap", [[fragments[0]], [fragments[2]]])
    with pytest.raises(CheckpointError, match=r"elements 4 to 8 of '.*' of 'head' are in no share"):
        ShareReader(tmp_path / "gap")
    write(tmp_path / "late", [fragments[1:]])
    with pytest.raises(CheckpointError, match=r"elements 0 to 3 of '.*' of 'head' are in no share"):
        ShareReader(tmp_path / "late")
    (wide,) = cut({"head": {kind: t[:6] for kind, t in state["head"].items()}}, {"head": [0, 6]})
    write(tmp_path / "overlap", [fragments[1:], [wide]])
    with pytest.raises(CheckpointError, match=r"elements 4 to 5 of .* twice: in share-00001-of-00002.*share-00000-of-"):
        ShareReader(tmp_path / "overlap")


def test_a_state_that_others_have_may_not_lack(state, tmp_path):
    del state["head"]["exp_avg"]
    write(tmp_path, evenly(state, 1))
    with pytest.raises(CheckpointError, match=r"'head' has no 'exp_avg'"):
        ShareReader(tmp_path)


def test_muons_weights_have_a_momentum_and_the_others_two_moments(state, tmp_path):
    head = {"weight": state["head"]["weight"], "momentum": state["head"]["exp_avg"]}
    mixed = {**state, "head": head}
    write(tmp_path / "mixed", evenly(mixed, 2))
    reader = ShareReader(tmp_path / "mixed")
    assert reader.kinds == {"weight", "exp_avg", "exp_avg_sq", "momentum"}
    assert reader.elements("weight") == sum(SIZES.values())
    assert reader.elements("momentum") == SIZES["head"] == sum(SIZES.values()) - reader.elements("exp_avg_sq")
    assert torch.equal(reader.read("head", "momentum", 2, 7), head["momentum"][2:7])
    for kind in ("weight", "momentum"):
        write(tmp_path / kind, evenly({**mixed, "head": {k: t for k, t in head.items() if k != kind}}, 2))
        with pytest.raises(CheckpointError, match=r"'head' has no '(weight|exp_avg)'"):
            ShareReader(tmp_path / kind)


def test_a_lost_share_and_shares_of_two_saves_are_named(state, tmp_path):
    write(tmp_path, evenly(state, 3))
    (tmp_path / share_name(1, 3)).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"share-00001-of-00003.safetensors is missing"):
        ShareReader(tmp_path)
    write(tmp_path, evenly(state, 2))
    with pytest.raises(CheckpointError, match=r"different saves: of \[2, 3\] ranks"):
        ShareReader(tmp_path)
    with pytest.raises(CheckpointError, match="has no shares"):
        ShareReader(tmp_path / "nowhere")


def test_what_can_not_be_answered_is_said(state, tmp_path):
    write(tmp_path, evenly(state, 2))
    reader = ShareReader(tmp_path)
    for ask, said in (
        (lambda: reader.read("tail", "weight", 0, 1), "has no 'weight' of a parameter 'tail'"),
        (lambda: reader.read("head", "ema", 0, 1), "has no 'ema' of a parameter 'head'"),
        (lambda: reader.read("head", "weight", 0, 13), "'head' has 12 elements, but 0 to 13 were requested"),
        (lambda: reader.full("head", "weight", (3, 3)), "'head' has 12 elements, not 9"),
    ):
        with pytest.raises(CheckpointError, match=said):
            ask()


@pytest.mark.parametrize("content", [b"", b"\x80\x04hello", b"\xff" * 100])
def test_what_is_no_safetensors_file_is_named(state, tmp_path, content):
    write(tmp_path, evenly(state, 2))
    (tmp_path / share_name(1, 2)).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"share-00001-of-00002.safetensors is not a share of a checkpoint"):
        ShareReader(tmp_path)


def test_a_write_that_fails_leaves_nothing(state, tmp_path, monkeypatch):
    (fragments,) = evenly(state, 1)
    write_share(tmp_path, 0, 1, fragments)  # of an earlier session: its note must not stand beside a new failure

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for function in ("flush", "commit_text"):
        with monkeypatch.context() as patched:
            patched.setattr(shares, function, full)
            with pytest.raises(OSError, match="No space left"):
                write_share(tmp_path, 0, 1, fragments)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match=r"share of rank 0 of 1 is not complete"):
        read_notes(tmp_path, 1)
