import dataclasses
import pickle

import pytest
import torch

from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.data.transfer import copy_by_blocks, pack, to_device
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective


@dataclasses.dataclass(frozen=True)
class Nested:
    flags: torch.Tensor
    numbers: dict[str, torch.Tensor]
    nothing: torch.Tensor | None
    empty: torch.Tensor
    scalar: torch.Tensor
    name: str


VALUE = Nested(
    flags=torch.tensor([True, False, True]),
    numbers={"a": torch.arange(5, dtype=torch.float64), "b": torch.ones(2, 3, dtype=torch.int16).T},
    nothing=None,
    empty=torch.empty(0, 3),
    scalar=torch.tensor(2.5),
    name="x",
)


def tensors_of(value):
    return [value.flags, *value.numbers.values(), value.empty, value.scalar]


@pytest.mark.parametrize("way", [lambda p: p, lambda p: pickle.loads(pickle.dumps(p))], ids=["here", "pickled"])
def test_what_is_packed_comes_back_whole(way):
    found = way(pack(VALUE)).unpack()
    assert (found.nothing, found.name) == (None, "x")
    for mine, theirs in zip(tensors_of(VALUE), tensors_of(found), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(mine, theirs)


def test_a_sample_has_one_block_and_its_input_is_unchanged():
    objective = DenoiseObjective(DenoiseConfig())
    sample = objective.corrupt(collate(random_columns([3, 5, 1])), keys([0, 1, 2]))
    packed = pack(sample)
    found = packed.unpack()
    assert found.counts == sample.counts
    for field in dataclasses.fields(sample.input):
        mine, theirs = getattr(sample.input, field.name), getattr(found.input, field.name)
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)
        assert theirs is None or theirs.untyped_storage().data_ptr() == packed.block.untyped_storage().data_ptr()


def test_moving_leaves_what_is_no_tensor_alone():
    moved = to_device(VALUE, torch.device("meta"))
    assert all(tensor.is_meta for tensor in tensors_of(moved))
    assert (moved.nothing, moved.name) == (None, "x")


def test_what_was_packed_crosses_in_one_copy_and_other_tensors_by_themselves():
    copied = []

    def copy(tensor):
        copied.append(tensor)
        return tensor.clone()

    found = copy_by_blocks(pack(VALUE).unpack(), copy)
    assert len(copied) < 3  # the block; nothing lies in the empty one
    for mine, theirs in zip(tensors_of(VALUE), tensors_of(found), strict=True):
        assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(mine, theirs)
    copied.clear()
    found = copy_by_blocks(VALUE, copy)
    assert len(copied) == len(tensors_of(VALUE))
    assert all(map(torch.equal, tensors_of(found), tensors_of(VALUE)))
    copied.clear()
    sample = DenoiseObjective(DenoiseConfig()).corrupt(collate(random_columns([3, 5, 1])), keys([0, 1, 2]))
    crossed = copy_by_blocks(pack(sample).unpack(), copy)
    assert len(copied) == 1
    assert torch.equal(crossed.masked_M, sample.masked_M)
    assert torch.equal(crossed.input.coordinates_BA3, sample.input.coordinates_BA3)
    copied.clear()
    one = pack(VALUE).unpack().scalar  # a small part of a block
    assert torch.equal(copy_by_blocks(one, copy), VALUE.scalar)
    assert copied == [one]
