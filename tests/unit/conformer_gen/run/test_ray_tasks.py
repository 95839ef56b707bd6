"""Who is to blame when a task ends badly: the molecule, its node, or the disk. Ray is played by a script."""

import errno
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray import exceptions

from conformer_gen.run import ray_tasks
from conformer_gen.run.jobs import Job, hint_path
from conformer_gen.run.ray_tasks import Stage, run_all
from conformer_gen.run.watchdog import HINT
from conformer_gen.selection.pieces import Piece
from unimol_scale.common.progress import StageProgress
from unimol_scale.errors import StoreError

Result = int | Exception
HERE, GONE = "node-that-lives", "node-that-died"


class ScriptedRay:
    """Ends every task at once with what the script says of its job."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, script: Callable[[Job], Result]) -> None:
        self.results: dict[str, Result] = {}
        self.jobs: list[Job] = []
        self._script, self._names = script, (f"task {number}" for number in itertools.count())
        monkeypatch.setattr(ray_tasks.ray, "wait", lambda references, **_: (references[:1], references[1:]))
        monkeypatch.setattr(ray_tasks.ray, "get", self.get)
        monkeypatch.setattr(ray_tasks.ray, "put", lambda thing: thing)  # the real one would start Ray
        monkeypatch.setattr(ray_tasks, "POLL_S", 0.001)
        monkeypatch.setattr(ray_tasks, "NODE_LOSS_S", 0.05)

    def submit(self, job: Job) -> str:
        name = next(self._names)
        self.jobs.append(job)
        assert len(self.jobs) < 100, "a job runs again and again"
        self.results[name] = self._script(job)
        return name

    def get(self, reference: str) -> int:
        result = self.results[reference]
        if isinstance(result, Exception):
            raise result
        return result


def task_error(cause: Exception) -> exceptions.RayTaskError:
    return exceptions.RayTaskError("task", "its traceback", cause)


def job_of(positions: range, **keys: object) -> Job:
    return Job(piece=Piece(0, positions.start, positions.stop), positions=tuple(positions), **keys)


def leave_hint(work: Path, job: Job, position: int, node: str, began: float = 2e9) -> None:
    path = hint_path(work, "stage", job.piece)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(HINT.pack(position, began, node.encode()))


def run(ray: ScriptedRay, work: Path, jobs: list[Job], live: set[str]) -> tuple[int, list[tuple[tuple[int, ...], str]]]:
    buried: list[tuple[tuple[int, ...], str]] = []
    with StageProgress("testing", None) as progress:
        Stage(
            name="stage",
            work=work,
            limit_s=100.0,
            submit=ray.submit,
            bury=lambda job, why: buried.append((job.positions, why)),
            live_nodes=lambda: live,
        ).run(iter(jobs), 2, progress)
        return progress.advanced, buried


@pytest.mark.parametrize("live", [{HERE}, {HERE, "another"}])
@pytest.mark.parametrize(
    ("death", "began", "why"),
    [
        (exceptions.WorkerCrashedError(), 2e9, "worker_died"),
        (exceptions.WorkerCrashedError(), 0.0, "too_slow"),
        (task_error(MemoryError()), 2e9, "out_of_memory"),
    ],
)
def test_a_molecule_that_kills_its_worker_is_found_and_buried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: set[str], death: Exception, began: float, why: str
) -> None:
    def script(job: Job) -> Result:
        if 7 not in job.positions:
            return len(job.positions)
        leave_hint(tmp_path, job, 7, HERE, began)
        return death

    ray = ScriptedRay(monkeypatch, script)
    assert run(ray, tmp_path, [job_of(range(10)), job_of(range(10, 12))], live) == (12, [((7,), why)])
    assert [job.positions for job in ray.jobs].count((7,)) == ray_tasks.DEATHS_ALLOWED


@pytest.mark.parametrize(
    "loss",
    [
        exceptions.NodeDiedError("gone"),
        exceptions.ObjectLostError("ab", None, ""),
        exceptions.OutOfMemoryError("the node's memory was full"),
        exceptions.WorkerCrashedError(),  # what Ray says first when the node is going
    ],
    ids=lambda loss: type(loss).__name__,
)
def test_a_molecule_is_not_blamed_for_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: Exception
) -> None:
    def script(job: Job) -> Result:
        leave_hint(tmp_path, job, 3, GONE)
        return loss if job.retries < 5 else len(job.positions)

    ray = ScriptedRay(monkeypatch, script)
    jobs = [job_of(range(3, 4)), job_of(range(9))]
    assert run(ray, tmp_path, jobs, {HERE}) == (10, [])
    assert {len(job.positions) for job in ray.jobs} == {1, 9}, "nothing was cut"


def test_a_node_whose_loss_is_noticed_late_clears_the_molecule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = {HERE, GONE}
    deaths = iter([exceptions.WorkerCrashedError(), exceptions.WorkerCrashedError()])

    def script(job: Job) -> Result:
        leave_hint(tmp_path, job, 3, GONE)
        death = next(deaths, None)
        return death or 1

    ray = ScriptedRay(monkeypatch, script)
    monkeypatch.setattr(ray_tasks.time, "sleep", lambda _: live.discard(GONE))
    assert run(ray, tmp_path, [job_of(range(3, 4))], live) == (1, [])


def test_a_cluster_that_falls_apart_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = ScriptedRay(monkeypatch, lambda _: exceptions.NodeDiedError("gone"))
    with pytest.raises(StoreError, match="run the same command again to resume"):
        run(ray, tmp_path, [job_of(range(4))], {HERE})


@pytest.mark.parametrize("cause", [OSError(errno.ENOSPC, "full"), StoreError("damaged")])
def test_what_the_user_can_mend_leaves_the_task_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception
) -> None:
    ray = ScriptedRay(monkeypatch, lambda _: task_error(cause))
    with pytest.raises(type(cause)) as caught:
        run(ray, tmp_path, [job_of(range(4))], {HERE})
    assert caught.value is cause


def test_jobs_are_read_as_room_allows_and_lost_ones_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    losses = iter([exceptions.NodeDiedError("gone"), exceptions.WorkerCrashedError()])
    ray = ScriptedRay(monkeypatch, lambda job: next(losses, None) or job)

    class Call:
        @staticmethod
        def options(**_: int) -> type["Call"]:
            return Call

        @staticmethod
        def remote(function: object, job: int) -> str:
            return ray.submit(job)

    def jobs() -> Iterator[int]:
        for number in range(1, 8):
            read.append(number)
            yield number

    monkeypatch.setattr(ray_tasks, "_call", Call)
    results = run_all(abs, jobs(), max_in_flight=2, memory=1)
    first = next(results)
    assert len(read) <= 4
    assert sorted([first, *results]) == list(range(1, 8))
