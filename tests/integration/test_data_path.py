"""From a store to the tensors of a step: through worker processes, from disk and from a server that fails at times."""

import contextlib
import fcntl
import functools
import http.server
import multiprocessing
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from tests.helpers.store_samples import random_record, write_store
from unimol_scale.common.fetching.download import FetchOptions
from unimol_scale.data.dataset import DataConfig, training_loader, validation_loader
from unimol_scale.errors import ConfigError, StoreError
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective
from unimol_scale.store import remote
from unimol_scale.store.remote import open_remote_store
from unimol_scale.store.shards import write_manifest

SHARDS, ROWS = 8, 12
OBJECTIVE = DenoiseObjective(DenoiseConfig())


class Server(http.server.ThreadingHTTPServer):
    """Serves a directory; every ``fail_every``-th request for a shard is refused or cut in the middle."""

    fail_every = 0
    gone: str = ""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(directory)))
        self.shards: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        if self.server.gone and self.server.gone in self.path:
            self.send_error(404)
            return
        if "shard" in self.path:
            self.server.shards.append(self.path)
            count = len(self.server.shards)
            if self.server.fail_every and count % self.server.fail_every == 0:
                if count % 2:
                    self.send_error(500)
                else:
                    self.cut()
                return
        super().do_GET()

    def cut(self) -> None:
        data = Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def store(tmp_path):
    records = [random_record(i) for i in range(SHARDS * ROWS)]
    return write_store(tmp_path / "store", records, records[:20], shard_rows=ROWS)


@pytest.fixture
def server(store, monkeypatch):
    monkeypatch.setattr(remote, "FETCHING", FetchOptions(backoff_s=0.01))
    with Server(store.path) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def loader_of(path, *, batch=16, rank=0, ranks=1, **options):
    config = DataConfig(path=str(path), max_pairs=500, **{"workers": 0, **options})
    return training_loader(config, OBJECTIVE.corrupt_at, batch_size=batch, seed=0, rank=rank, world_size=ranks)


def molecules_of(samples):
    return torch.cat([sample.molecule_B for sample in samples]).tolist()


def cache_for(store, shards):
    return shards * max(shard.bytes for shard in store.manifest.splits["train"].shards)


def cached_bytes(folder):
    total = 0
    for path in folder.rglob("shard-*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size if path.suffix != ".lock" else 0
    return total


def test_an_epoch_from_a_failing_server_through_a_cache_of_three_of_eight_shards(store, server, tmp_path):
    server.fail_every = 3
    size = cache_for(store, 3)
    options = {"cache_dir": tmp_path / "cache", "cache_bytes": size, "shuffle_window": 2}
    seen, largest = [], 0
    for samples in loader_of(server.url, **options).steps(0, 6):
        seen += molecules_of(samples)
        largest = max(largest, cached_bytes(tmp_path / "cache"))
    assert sorted(seen) == list(range(SHARDS * ROWS))
    assert 0 < largest <= size
    # The same windows on disk give the same steps.
    local = loader_of(store.path, shuffle_window=2)
    assert seen == [number for samples in local.steps(0, 6) for number in molecules_of(samples)]


def test_shards_of_coming_steps_are_fetched_before_they_are_needed(store, server, tmp_path):
    options = {"cache_dir": tmp_path / "cache", "cache_bytes": cache_for(store, 4), "shuffle_window": 2}
    steps = loader_of(server.url, batch=8, **options).steps(0, 3)
    next(steps)
    deadline = time.monotonic() + 20
    while len(set(server.shards)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(set(server.shards)) == 4  # two of this window, two of the next, and then the cache is full


def _read_everything(url, cache, size, queue):
    loader = loader_of(url, cache_dir=cache, cache_bytes=size, shuffle_window=2)
    queue.put(sorted(number for samples in loader.steps(0, 6) for number in molecules_of(samples)))


def test_processes_share_a_cache(store, server, tmp_path):
    server.fail_every = 4
    context = multiprocessing.get_context("forkserver")
    queue = context.SimpleQueue()
    arguments = (server.url, tmp_path / "cache", cache_for(store, SHARDS), queue)
    readers = [context.Process(target=_read_everything, args=arguments) for _ in range(2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        assert queue.get() == list(range(SHARDS * ROWS))
        reader.join()
    # Each shard was fetched once for both, failures aside.
    assert len(server.shards) <= SHARDS + len(server.shards) // server.fail_every
    assert not list((tmp_path / "cache").rglob("*.part"))


def _load_until_killed(path, pids):
    steps = loader_of(str(path), workers=2).steps(0, 6)
    next(steps)
    pids.put([process.pid for process in psutil.Process().children(recursive=True)])
    signal.pause()


def test_a_rank_that_is_killed_takes_its_loader_processes_along(store):
    context = multiprocessing.get_context("spawn")
    pids = context.SimpleQueue()
    rank = context.Process(target=_load_until_killed, args=(store.path, pids))
    rank.start()
    family = [psutil.Process(pid) for pid in pids.get()]
    assert len(family) >= 3, "the server and two loaders"
    rank.kill()
    rank.join()
    _, alive = psutil.wait_procs(family, timeout=30)
    alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
    for process in alive:
        process.kill()
    assert not alive


def test_a_shard_that_is_gone_is_named_with_its_url(store, server, tmp_path):
    server.gone = "shard-00005"
    split = open_remote_store(server.url, tmp_path / "cache", 10**9).split("train")
    with pytest.raises(StoreError, match=rf"cannot read train/shard-00005\.arrow from {server.url}"):
        split.gather(np.array([5 * ROWS]))
    assert len(split.gather(np.array([0])).num_atoms) == 1


def test_a_shard_with_other_content_is_never_used(store, server, tmp_path):
    file = store.path / "train" / "shard-00002.arrow"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    split = open_remote_store(server.url, tmp_path / "cache", 10**9).split("train")
    with pytest.raises(
        StoreError, match=r"shard-00002\.arrow of .* could not be downloaded in .*its content .* differs"
    ):
        split.gather(np.array([2 * ROWS]))
    assert cached_bytes(tmp_path / "cache") == 0


def test_what_a_dead_process_left_does_not_fill_the_cache(store, server, tmp_path):
    size = cache_for(store, 2)
    split = open_remote_store(server.url, tmp_path / "cache", size).split("train")
    split.gather(np.array([0]))
    (folder,) = (tmp_path / "cache").glob("*/train")
    (folder / f"shard-00001.arrow.{size // 2}.part").write_bytes(b"half")
    (folder / f"shard-00003.arrow.{size // 2}.part").write_bytes(b"half")
    for shard in range(1, 4):
        split.gather(np.array([shard * ROWS]))
    assert not list(folder.glob("*.part"))


def test_room_that_another_download_has_claimed_is_not_taken(store, server, tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "ROOM_S", 0.0)
    size = cache_for(store, 2)
    split = open_remote_store(server.url, tmp_path / "cache", size).split("train")
    split.gather(np.array([0]))
    (folder,) = (tmp_path / "cache").glob("*/train")
    coming = folder / f"shard-00007.arrow.{size}.part"
    coming.write_bytes(b"half")
    with (folder / "shard-00007.arrow.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="no room for shard-00001"):
            split.gather(np.array([ROWS]))
        assert coming.is_file()
    assert len(split.gather(np.array([ROWS])).num_atoms) == 1


def test_a_manifest_can_not_name_files_outside_the_store(store, server, tmp_path):
    text = (store.path / "manifest.json").read_text()
    (store.path / "manifest.json").write_text(text.replace("train/shard-00001", "../shard-00001"))
    with pytest.raises(StoreError, match="outside the store"):
        open_remote_store(server.url, tmp_path / "cache", 10**9)


def test_a_cache_too_small_for_the_window_is_told_before_the_first_step(store, server, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.cache_bytes .* is too small for the 16 shards"):
        loader_of(server.url, cache_dir=tmp_path, cache_bytes=cache_for(store, 3))


def test_no_store_behind_a_url(server, tmp_path):
    with pytest.raises(StoreError, match=r"cannot read manifest\.json from .*finished store, and may you read it"):
        open_remote_store(f"{server.url}/elsewhere", tmp_path, 10**9)


def test_workers_change_nothing(store):
    def epoch(workers):
        return [sample for samples in loader_of(store.path, workers=workers).steps(2, 5) for sample in samples]

    for mine, theirs in zip(epoch(0), epoch(2), strict=True):
        assert torch.equal(mine.molecule_B, theirs.molecule_B)
        assert torch.equal(mine.input.coordinates_BA3, theirs.input.coordinates_BA3)


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_step_has_the_same_molecules_on_any_number_of_ranks(store, ranks):
    alone = next(loader_of(store.path).steps(3, 4))
    shares = [next(loader_of(store.path, rank=rank, ranks=ranks).steps(3, 4)) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    assert sorted(molecules_of(alone)) == sorted(number for share in shares for number in molecules_of(share))


def test_validation_repeats_its_molecules_with_other_corruptions(store):
    config = DataConfig(path=str(store.path), max_pairs=10_000, workers=0)
    loader = validation_loader(config, OBJECTIVE.corrupt_at, rank=0, world_size=1)
    first, second = loader.steps(0, 2)
    assert molecules_of(first) == molecules_of(second)
    assert not torch.equal(first[0].input.coordinates_BA3, second[0].input.coordinates_BA3)


def test_a_store_without_training_molecules_is_told(tmp_path):
    empty = write_store(tmp_path / "empty", [], [random_record(0)])
    write_manifest(empty.path, empty.manifest)
    with pytest.raises(StoreError, match="has no train molecules"):
        loader_of(empty.path)
