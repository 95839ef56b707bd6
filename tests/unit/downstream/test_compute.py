"""Micro-batches computed at the same time: results in order, errors to the caller, thread settings as before."""

import threading
import time
from collections.abc import Iterator

import pytest
import torch

from unimol_scale.downstream.compute import concurrency_of, map_concurrently

CPU = torch.device("cpu")


@pytest.fixture
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_four_threads")
def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    def work(item: int) -> int:
        time.sleep(0.02 if item % 3 == 0 else 0.0)
        return item * item

    assert list(map_concurrently(work, range(40), CPU)) == [item * item for item in range(40)]


@pytest.mark.usefixtures("_four_threads")
def test_micro_batches_are_computed_at_once_each_on_its_share_of_the_threads() -> None:
    together = threading.Barrier(4, timeout=20.0)  # breaks unless four are under way

    def work(_: int) -> int:
        together.wait()
        return torch.get_num_threads()

    assert list(map_concurrently(work, range(8), CPU)) == [1] * 8


@pytest.mark.usefixtures("_four_threads")
def test_thread_settings_are_as_before_afterwards_in_new_threads_too() -> None:
    list(map_concurrently(lambda item: item, range(3), CPU))
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (torch.get_num_threads(), seen) == (4, [4])


@pytest.mark.usefixtures("_four_threads")
def test_an_error_reaches_the_caller_and_the_rest_is_dropped() -> None:
    done: list[int] = []

    def work(item: int) -> int:
        if item == 2:
            raise ValueError("molecule 2 is odd")
        done.append(item)
        return item

    with pytest.raises(ValueError, match="molecule 2 is odd"):
        list(map_concurrently(work, range(1000), CPU))
    assert len(done) < 20
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("_four_threads")
def test_items_are_read_no_further_ahead_than_keeps_the_threads_busy() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for item in range(1000):
            taken += 1
            yield item

    results = map_concurrently(lambda item: item, items(), CPU)
    next(results)
    assert taken <= 9
    results.close()  # type: ignore[attr-defined]


def test_a_gpu_takes_one_micro_batch_at_a_time() -> None:
    assert concurrency_of(torch.device("cuda")) == (1, torch.get_num_threads())
