"""What runs the jobs of a build: the code that a cluster is sent, and the progress of jobs in this process."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformer_gen.config import BuildConfig
from conformer_gen.report.progress_samples import SampledProgress
from conformer_gen.run.in_process_executor import InProcessExecutor
from conformer_gen.run.jobs import Job, StageWork
from conformer_gen.run.watchdog import Starting
from conformer_gen.selection.pieces import Piece
from conformer_gen.sources.config import SourceConfig
from unimol_scale.errors import StoreError


def config_of(tmp_path: Path, **keys: object) -> BuildConfig:
    return BuildConfig(source=SourceConfig(name="sample"), output=tmp_path, **keys)


def test_a_cluster_is_sent_both_packages_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conformer_gen.run import ray_executor

    given: dict[str, object] = {}

    def init(**keys: object) -> None:
        given.update(keys)
        raise ConnectionError("no cluster is there")

    monkeypatch.setattr(ray_executor.ray, "init", init)
    with (
        pytest.raises(StoreError, match=r"at auto: no cluster is there\. .* RAY_AUTH_MODE=token"),
        ray_executor.on_ray(config_of(tmp_path, ray_address="auto")),
    ):
        pass
    folders = [Path(folder) for folder in given["runtime_env"]["py_modules"]]
    assert [folder.name for folder in folders] == ["conformer_gen", "unimol_scale"]
    assert (folders[0] / "run" / "worker.py").is_file()
    assert (folders[1] / "store" / "schema.py").is_file()


def test_a_port_where_nothing_listens_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from conformer_gen.run import ray_executor

    monkeypatch.setattr(ray_executor.ray, "init", lambda **_: pytest.fail("Ray would try for minutes"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with (
        pytest.raises(StoreError, match=rf"--ray-address 127\.0\.0\.1:{port}: nothing answers there"),
        ray_executor.on_ray(config_of(tmp_path, ray_address=f"127.0.0.1:{port}")),
    ):
        pass


def test_in_this_process_progress_moves_with_every_molecule(tmp_path: Path) -> None:
    shown: list[int] = []

    class Shown(SampledProgress):
        def tick(self) -> None:
            shown.append(self.advanced)

    def task(work: Path, job: Job, starting: Starting) -> int:
        starting(None, len(job.positions))  # all at once, as on a GPU
        for position in job.positions:
            starting(position)
        return len(job.positions)

    def jobs() -> Iterator[Job]:
        yield Job(piece=Piece(0, 0, 5), positions=(0, 2, 4))
        yield Job(piece=Piece(1, 0, 5), positions=(1, 3))

    executor = InProcessExecutor(config_of(tmp_path), lambda label, total, _: Shown(label, total))
    with executor.show("generating conformers", 5, None) as progress:
        work = StageWork(name="embedded", task=task, bury=lambda job, why: pytest.fail("nothing dies here"))
        executor.run_stage(work, jobs(), tmp_path, progress)
    assert shown == [0, 1, 2, 3, 3, 4, 5]
