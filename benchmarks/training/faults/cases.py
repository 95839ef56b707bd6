"""Faults other than kills of a whole run: each is caused in a run of its own, which must end as expected."""

import dataclasses
import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.training.faults.plan import NUM_RANKS, SPIKE_WINDOW, Trial, differing, first_problem, spike_factor
from benchmarks.training.faults.sessions import Session, curve, last_step
from unimol_scale.common.exit_status import EXIT_STOPPED, EXIT_USER_ERROR
from unimol_scale.common.run_files import CHECKPOINTS, SKIPPED_NAME, SUMMARY_NAME
from unimol_scale.store.manifest import SplitEntry
from unimol_scale.store.schema import Layout, arrow_schema
from unimol_scale.store.shards import open_store, read_shard, size_histogram, write_manifest, write_shard

SHORT = 20  # steps of a run with one fault; a multiple of Bench.validate_every, so that it ends with a validation
OTHER_RANKS = 1e-5
_SPIKE_STEPS = 40
_NAN_ROWS, _NAN_ROW = 32, 7


class Bench:
    """The folders of the runs, and how each run is started.

    Args:
        root: folder of all runs and logs.
        data: conformer store.
    """

    size = "0.2M"
    checkpoint_every = 3
    validate_every = 10

    def __init__(self, root: Path, data: Path) -> None:
        self.root = root.resolve()
        self.data = data.resolve()
        self.truth = self.root / "truth"
        self._sessions = 0

    def start(self, run: Path, more: list[str], *, ranks: int = NUM_RANKS, data: Path | None = None) -> Session:
        """Start or continue the run in a folder."""
        self._sessions += 1
        # The rate is constant after warm-up, so that a short run is the beginning of a long one.
        arguments = [
            "--size", self.size, "--data", data or self.data, "--output", run, "train.precision=fp32",
            "train.warmup_steps=5", "train.schedule=constant", "train.learning_rate=1e-3", "train.global_batch_size=8",
            "train.keep_finished=all", "train.log_every=1", f"train.checkpoint_every={self.checkpoint_every}",
            f"train.validate_every={self.validate_every}", "data.workers=0", "data.validation_molecules=16", *more,
        ]  # fmt: skip
        return Session(arguments, self.root / f"{run.name}-{self._sessions}.log", ranks)

    def fresh(self, name: str) -> Path:
        """Return a run folder that does not exist."""
        run = self.root / name
        shutil.rmtree(run, ignore_errors=True)
        return run

    def latest(self, run: Path) -> int:
        """Return the step of the checkpoint that ``latest`` names."""
        return int((run / CHECKPOINTS / "latest").read_text().strip().removeprefix("step-"))

    def complete(self, run: Path, more: list[str], expected_step: int, tolerance: float = 0.0) -> str:
        """Start a run again and let it finish; return its problem, "" if there is none."""
        session = self.start(run, more)
        status = session.finish()
        places = differing(curve(run), curve(self.truth), tolerance)
        checks = [
            (status != 0, f"status {status} of the next start"),
            (session.resumed_step() != expected_step, f"went on from {session.resumed_step()}, not {expected_step}"),
            (bool(places), f"differs: {', '.join(places[:5])}"),
        ]
        return first_problem(checks)


def signals(bench: Bench) -> list[Trial]:
    """SIGTERM and SIGUSR1: the state is saved, and the same command continues."""
    trials = []
    for number, ranks in ((signal.SIGTERM, 1), (signal.SIGUSR1, 1), (signal.SIGTERM, NUM_RANKS)):
        run, more = bench.fresh(f"{number.name}-{ranks}"), [f"train.steps={SHORT // 2}"]
        session = bench.start(run, more, ranks=ranks)
        session.wait_for(lambda run=run: last_step(run) >= 2)
        session.signal_ranks(number)
        status, reached = session.finish(), last_step(run)
        # The launcher has a status of its own.
        problem = first_problem(
            [
                (ranks == 1 and status != EXIT_STOPPED, f"status {status}"),
                (reached >= SHORT // 2, "the signal came too late"),
                (bench.latest(run) != reached, f"saved step {bench.latest(run)} of {reached}"),
            ]
        ) or bench.complete(run, more, reached, 0.0 if ranks > 1 else OTHER_RANKS)
        where = "plain python, then 2 ranks" if ranks == 1 else "both ranks"
        told = session.message("  stopped (")
        trials.append(Trial(f"{number.name}, {where}", problem, 0, None, f"{told} (status {status})"))
    return trials


def loader(bench: Bench) -> list[Trial]:
    """A killed loader process is replaced; then a rank with loaders is killed, and its loaders end with it."""
    run, more = bench.fresh("loader"), [f"train.steps={3 * SHORT}", "data.workers=1"]
    session = bench.start(run, more)
    session.wait_for(lambda: last_step(run) >= 2)
    killed = session.loaders()
    for process in killed:
        process.kill()
    at = last_step(run)
    went_on = session.wait_for(lambda: last_step(run) >= at + SHORT)
    told = session.message("a loader process")
    seconds = session.fall([session.ranks()[0]])
    reached = bench.latest(run)
    problem = first_problem([(not killed, "no loader process was found"), (not went_on, "the run ended")])
    again = last_step(run) - reached
    rest = first_problem([(seconds > 60.0, f"stopped only after {seconds:.0f} s")]) or bench.complete(
        run, more, reached
    )
    return [
        Trial(f"kill -9 of the loaders of both ranks ({len(killed)} processes)", problem, 0, None, told),
        Trial("kill -9 of rank 0 with loaders", rest, again, seconds, session.message("another rank", "return code")),
    ]


def full_disk(bench: Bench) -> list[Trial]:
    """A disk with room for less than two checkpoints, which grows later."""
    fault, disk = "full disk", bench.root / "disk"
    disk.mkdir(exist_ok=True)
    size = sum(path.stat().st_size for path in bench.truth.glob(f"checkpoints/step-*{bench.latest(bench.truth)}/*"))

    def mount(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["mount", *options, str(disk)], capture_output=True, text=True, check=False)

    refused = mount("-t", "tmpfs", "-o", f"size={int(1.7 * size)}", "tmpfs")
    if refused.returncode:
        return [Trial(fault, "", message=f"not tried: mounting is not permitted ({refused.stderr.strip()})")]
    try:
        run, more = disk / "run", [f"train.steps={SHORT}"]
        session = bench.start(run, more)
        status = session.finish()
        reached = bench.latest(run)
        mount("-o", "remount,size=1g")
        problem = first_problem(
            [
                (status == 0, "status 0"),
                ("run the same command again" not in session.text, "no advice"),
                (last_step(run) < SHORT - 1, f"the run ended at step {last_step(run)}"),
            ]
        ) or bench.complete(run, more, reached)
        told = session.message("could not be saved; the run")
        return [Trial(fault, problem, SHORT - reached, None, told)]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def damage(bench: Bench) -> list[Trial]:
    """Each file of the newest checkpoint is damaged in turn: it is named, and the checkpoint before is used."""
    newest = bench.latest(bench.truth)

    def truncate(path: Path) -> None:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    folder, share = f"step-{newest:08d}", "share-00001-of-00002.safetensors"
    steps = sorted(int(path.name[5:]) for path in (bench.truth / CHECKPOINTS).glob("step-*"))
    before = steps[-2]
    cases: list[tuple[str, str, Callable[[Path], None], int]] = [
        ("share truncated", f"{folder}/{share}", truncate, before),
        ("share with one bit flipped", f"{folder}/{share}", flip, before),
        ("share missing", f"{folder}/{share}", Path.unlink, before),
        ("manifest of a checkpoint missing", f"{folder}/manifest.json", Path.unlink, before),
        ("manifest of a checkpoint with one bit flipped", f"{folder}/manifest.json", flip, before),
        ("`latest` missing", "latest", Path.unlink, newest),
    ]
    trials = []
    for number, (fault, file, spoil, expected) in enumerate(cases):
        run = bench.fresh(f"damaged-{number}")
        shutil.copytree(bench.truth, run)
        (run / SUMMARY_NAME).unlink()
        spoil(run / CHECKPOINTS / file)
        problem = bench.complete(run, [f"train.steps={newest}"], expected)
        text = max(bench.root.glob(f"{run.name}-*.log"), key=lambda path: path.stat().st_mtime).read_text()
        told = next((line for line in text.splitlines() if "damaged checkpoint" in line), "")
        if not problem and expected != newest and Path(file).name not in told:
            problem = "the file is not named"
        told = told.replace(f"{run}/checkpoints/", "")
        trials.append(Trial(fault, problem, newest - expected, None, told))
    return trials


def not_a_number(bench: Bench) -> list[Trial]:
    """One coordinate of one molecule of the store is NaN: its steps are skipped and the molecule is named."""
    run = bench.fresh("nan")
    session = bench.start(run, [f"train.steps={SHORT}"], data=store_with_a_nan(bench))
    status = session.finish()
    lines = (run / SKIPPED_NAME).read_text().splitlines() if (run / SKIPPED_NAME).is_file() else []
    records = [json.loads(line) for line in lines]
    losses = curve(run)["loss"]
    absent = sorted(step for step, loss in losses.items() if loss is None)
    problem = first_problem(
        [
            (status != 0, f"status {status}"),
            (not records, "no step was skipped"),
            (any(_NAN_ROW not in record["molecules"] for record in records), "the molecule is not among the named"),
            (absent != [record["step"] for record in records], "steps without a loss are not those skipped"),
            (len(losses) != SHORT, f"{len(losses)} steps"),
        ]
    )
    fault = f"NaN in a coordinate of one molecule of {_NAN_ROWS}"
    return [Trial(fault, problem, None, None, f"{len(records)} skipped; {session.message('is not finite')}")]


def store_with_a_nan(bench: Bench) -> Path:
    """Return a store of the first molecules of the store, in float32, and one coordinate NaN."""
    store, path = open_store(bench.data), bench.fresh("nan-store")
    manifest = store.manifest
    layout = Layout(None, tuple(manifest.labels))
    splits = {}
    for name, split in manifest.splits.items():
        batch = read_shard(store, split.shards[0]).slice(0, _NAN_ROWS)
        scale = manifest.coordinate_scale or 1.0
        coordinates = [_scaled(value, scale) for value in batch.column("coordinates").to_pylist()]
        if name == "train":
            coordinates[_NAN_ROW] = _scaled(coordinates[_NAN_ROW], float("nan"))
        field = arrow_schema(layout).field("coordinates")
        at = batch.schema.get_field_index("coordinates")
        batch = batch.set_column(at, field, pa.array(coordinates, field.type))
        entry = write_shard(path, f"{name}/shard-00000", batch, manifest.backend)
        atoms = store.split(name).num_atoms[: len(batch)]
        splits[name] = SplitEntry(shards=(entry,), size_histogram=size_histogram(np.asarray(atoms).tolist()))
    write_manifest(path, dataclasses.replace(manifest, coordinate_scale=None, splits=splits))
    return path


def _scaled(value: object, scale: float) -> object:
    return [_scaled(item, scale) for item in value] if isinstance(value, list) else float(value) * scale  # type: ignore[arg-type]


def spike(bench: Bench) -> list[Trial]:
    """A rise of the loss: the run returns to a checkpoint and continues after the molecules of the rise."""
    losses = [loss for _, loss in sorted(curve(bench.truth)["loss"].items())][:_SPIKE_STEPS]
    factor = spike_factor(losses)
    run = bench.fresh("spike")
    more = ["train.spikes=rollback", f"train.spike_window={SPIKE_WINDOW}", f"train.spike_factor={factor}"]
    session = bench.start(run, [f"train.steps={_SPIKE_STEPS}", *more])
    status = session.finish()
    rollbacks = json.loads((run / SUMMARY_NAME).read_text())["rollbacks"] if status == 0 else 0
    steps = list(curve(run)["loss"])
    told, back = session.message("risen suddenly"), session.message("goes on from")
    problem = first_problem(
        [
            (status not in (0, EXIT_USER_ERROR), f"status {status}"),
            (status == 0 and not rollbacks, "no rollback"),
            (not told or not back, "nothing was said"),
            (steps != list(range(1, len(steps) + 1)), "steps that were rolled back are still in the log"),
        ]
    )
    name = f"rise of the loss (spike_factor {factor:.3g}, {rollbacks} rollbacks, status {status})"
    return [Trial(name, problem, None, None, f"{told}; {back}")]


CASES: dict[str, Callable[[Bench], list[Trial]]] = {
    "signals": signals,
    "loader": loader,
    "full disk": full_disk,
    "damage": damage,
    "not a number": not_a_number,
    "spike": spike,
}
