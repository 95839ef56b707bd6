"""``pretrain``: runs pretraining in this process, for example in a notebook. Imports torch and DeepSpeed."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from unimol_scale.api.call_settings import a_call, read_call
from unimol_scale.api.conformer_store import ConformerStore
from unimol_scale.checkpoints.run.checkpoint_folder import read_manifest, step_folders
from unimol_scale.common.run_files import CHECKPOINTS
from unimol_scale.common.trees import merge
from unimol_scale.config import to_tree
from unimol_scale.engine import pretraining
from unimol_scale.engine.pretraining import PretrainingEnd
from unimol_scale.engine.run.extension import resolve_extended
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.errors import ConfigError

_SHORT = {"data": "data.path", "output": "output", "objective": "objective.name", "init": "init"}
_HOW = ("override", "extend", "profile")
_ARGUMENTS = {f"--{name}": name for name in (*_SHORT, *_HOW, "size", "resume")} | {"--dry-run": "us.plan"}


@dataclass(frozen=True, kw_only=True)
class PretrainedRun:
    """The result of ``pretrain``. It can be used wherever the path of the run folder is expected.

    Attributes:
        folder: the run folder, with config.yaml, metrics.jsonl, curve.png, checkpoints, and ``model`` once the run is
            finished.
        how: "finished"; "finished before" if there was nothing to do; "stopped" if the same call would continue.
        steps: number of optimizer steps done.
        losses: losses of the last validation, which have no unit: "valid/loss", and "valid/loss/NAME" for each term.
        summary: content of summary.json: parameters, molecules, FLOPs, seconds, best losses, …; None unless the run is
            finished.
        settings: the settings of the run, as nested dicts.
    """

    folder: Path
    how: Literal["finished", "finished before", "stopped"]
    steps: int
    losses: Mapping[str, float]
    summary: Mapping[str, Any] | None
    settings: Mapping[str, Any]

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped before its last step."""
        return self.how == "stopped"

    @property
    def loss(self) -> float:
        """Loss of the last validation; it has no unit."""
        return self.losses["valid/loss"]

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"PretrainedRun({str(self.folder)!r}, {self.how}, {self.steps:,} steps, validation loss {self.loss:.4f})"


def pretrain(
    size: str | None = None,
    *,
    data: str | Path | ConformerStore | None = None,
    output: str | Path | None = None,
    config: str | Path | None = None,
    resume: bool = True,
    progress: bool = False,
    settings: Mapping[str, Any] | None = None,
    **more: Any,  # noqa: ANN401
) -> PretrainedRun:
    """Pretrain a model in this process, or continue a run from its newest intact checkpoint.

    Training uses one process; for several GPUs, start the command under a launcher. The first Ctrl-C stops the run
    after the current step, saves a checkpoint and returns; the second one raises KeyboardInterrupt. Outside the main
    thread Ctrl-C is not handled. Batches are made in this process unless ``data.workers`` requests loader processes; a
    script that does so must guard its work with ``if __name__ == "__main__":``, as with ``torch.utils.data``.

    Args:
        size: preset of the model: "0.03M" … "4M", "42M" … "1.1B". Required unless ``extend`` is given.
        data: conformer store; None: the one store under data/.
        output: run folder; None: runs/SIZE-OBJECTIVE-seedN.
        config: YAML file with settings, such as those in configs/pretrain; the arguments override it.
        resume: continue the run in the run folder; if False, a folder with checkpoints is an error.
        progress: show messages and a bar on standard error; otherwise messages go to the logger ``unimol_scale``, and
            nothing is printed.
        settings: any setting by its dotted key, such as ``{"train.steps": 1000}``.
        more: ``objective``; ``seed``; ``init`` (a model from whose weights a new run starts); ``extend`` (number of
            steps by which to extend a run, with its own settings); ``override`` (continue although settings differ);
            ``profile`` (trace a few steps); or groups of settings, such as ``train={"steps": 1000}``.

    Returns:
        The folder, the steps, the losses, and whether the run was stopped.

    Raises:
        ConfigError: a setting is unknown or wrong. The message names it, and the nearest valid one.
        StoreError: the store is missing, or the run folder holds something else.
        CheckpointError: no checkpoint can be used, or the run was trained with other settings.
        RunError: another process trains in the run folder, memory is full, or the loss does not become finite again.
        KeyboardInterrupt: Ctrl-C before the first step, or a second Ctrl-C.

    Source:
        Model and recipe: Uni-Mol2 (arXiv 2406.14969). Sharding: ZeRO (arXiv 1910.02054), by DeepSpeed.

    Example:
        >>> import unimol_scale as us
        >>> small = {"train.steps": 6, "train.warmup_steps": 2, "train.global_batch_size": 16}
        >>> run = us.pretrain("0.03M", data="data/sample", output="runs/hello", settings=small)
        >>> run.steps, run.stopped
        (6, False)
        >>> sorted(run.losses)
        ['valid/loss', 'valid/loss/coordinate', 'valid/loss/distance', 'valid/loss/token']
        >>> us.pretrain("0.03M", data="data/sample", output="runs/hello", settings=small).how
        'finished before'
    """
    with a_call(_ARGUMENTS, progress=progress):
        how = {name: more.pop(name) for name in _HOW if name in more}
        extend = how.pop("extend", None)
        named = {"data": data.location if isinstance(data, ConformerStore) else data, "output": output, **more}
        chosen, origin = read_call(pretrain, config, {**_SHORT, **{name: name for name in _HOW}}, settings or {}, named)
        chosen = merge({"data": {"workers": 0}}, chosen)
        if extend is not None:
            if not isinstance(extend, int):
                raise ConfigError(f"extend: expected a whole number of steps, got {extend!r}")
            if not resume:
                raise ConfigError("extend continues a run, but resume=False starts anew; give only one of them")
            run = resolve_extended(extend, size, chosen, origin)
        elif size is None:
            raise ConfigError("size is required: a preset, such as '0.1M' or '84M'")
        else:
            run = resolve(size, chosen, origin)
        if run.data.workers:
            _require_main_file()
        threads = torch.get_num_threads()
        try:
            return _as_run(pretraining.pretrain(run, resume=resume, **how))
        finally:
            torch.set_num_threads(threads)


def _require_main_file() -> None:
    """Check that loader processes can start, which import the file of the main program if it has one.

    Raises:
        ConfigError: the program has no file because it was read from standard input.
    """
    path = getattr(sys.modules["__main__"], "__file__", None)  # None in a notebook, where loader processes can start
    if path is not None and not Path(path).is_file():
        raise ConfigError(
            f"data.workers: loader processes import the file of the program, but {path} is not a file; write the "
            "program to a file, or leave data.workers at 0"
        )


def _as_run(end: PretrainingEnd) -> PretrainedRun:
    folder = end.config.output
    if end.summary is not None:
        steps, losses = end.summary["steps"], end.summary["final"]
    else:
        saved = read_manifest(step_folders(folder / CHECKPOINTS)[-1]).meta
        steps, losses = saved["progress"]["step"], saved["final"]
    return PretrainedRun(
        folder=folder, how=end.how, steps=steps, losses=losses, summary=end.summary, settings=to_tree(end.config)
    )
