"""Loader processes that cannot hand over what they made: an error that says why, never a rank that waits for ever."""

import dataclasses
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.store_samples import random_record, write_store
from unimol_scale.data import loader
from unimol_scale.data.dataset import DataConfig, training_loader
from unimol_scale.errors import RunError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = [random_record(number) for number in range(8)]
    return write_store(tmp_path_factory.mktemp("loader") / "store", records[:6], records[6:]).path


@dataclasses.dataclass(frozen=True)
class Unsendable:
    """A sample that cannot be pickled."""

    numbers: torch.Tensor
    work: Callable[[], None]


def unsendable(batch: Any, keys: Any, step: int) -> Unsendable:
    return Unsendable(torch.zeros(3), lambda: None)


def without_room(batch: Any, keys: Any, step: int) -> torch.Tensor:
    # Files in shared memory count as files; no disk has to be filled for it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return torch.zeros(1000)


def first_step(store: Any, corruption: Any) -> None:
    steps = training_loader(
        DataConfig(path=store, workers=1, prefetch=1), corruption, batch_size=4, seed=0, rank=0, world_size=1
    ).steps(0, 1)
    next(steps)


@pytest.mark.timeout(120)
def test_a_full_shared_memory_is_one_line_that_says_what_to_do(store: Any) -> None:
    with pytest.raises(RunError, match=r"no room in shared memory \(/dev/shm\).*data\.workers=0"):
        first_step(store, without_room)


@pytest.mark.timeout(120)
def test_a_batch_that_cannot_be_sent_ends_the_run(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "MAX_DEATHS", 1)
    with pytest.raises(RunError, match="loader processes died 1 times at step 0"):
        first_step(store, unsendable)
