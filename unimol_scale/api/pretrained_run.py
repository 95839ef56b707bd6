"""``pretrain``: a pretraining run in this process, such as a notebook's. Imports torch and DeepSpeed."""

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
    """What a call of ``pretrain`` came to; it stands for the run folder wherever a path is asked for.

    Attributes:
        folder: of the run, with config.yaml, metrics.jsonl, curve.png, checkpoints, and ``model`` once it is finished.
        how: "finished"; "finished before", so that nothing was done; or "stopped", so that the same call goes on.
        steps: optimizer steps done.
        losses: of the last validation: "valid/loss", and "valid/loss/NAME" of each term; without unit.
        summary: of a finished run, as its summary.json: parameters, molecules, FLOPs, seconds, best losses, …
        settings: of the run, as nested dicts.
    """

    folder: Path
    how: Literal["finished", "finished before", "stopped"]
    steps: int
    losses: Mapping[str, float]
    summary: Mapping[str, Any] | None
    settings: Mapping[str, Any]

    @property
    def stopped(self) -> bool:
        """Whether the run has steps left, because it was told to stop."""
        return self.how == "stopped"

    @property
    def loss(self) -> float:
        """Validation loss after the last validation."""
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
    """Pretrain a model in this process, or go on with a run from its newest intact checkpoint.

    One process trains; several GPUs need the command under a launcher. Ctrl-C stops the run after its step, with a
    checkpoint, and returns; a second one is a KeyboardInterrupt. In a thread no signal is heard. Batches are made in
    this process too, unless ``data.workers`` asks for loader processes; a script that does needs
    ``if __name__ == "__main__":`` around its work, as with ``torch.utils.data``.

    Args:
        size: preset of the model: "0.03M" … "4M", "42M" … "1.1B". Only ``extend`` does without.
        data: conformer store; None: the one store under data/.
        output: run folder; None: runs/SIZE-OBJECTIVE-seedN.
        config: YAML file with settings, such as those in configs/pretrain; the arguments win over it.
        resume: take up what the run folder holds; without, a folder with checkpoints is an error.
        progress: show messages and a bar on standard error. Without, messages go to the logger ``unimol_scale``, and
            nothing is printed.
        settings: any setting by its dotted key, such as ``{"train.steps": 1000}``.
        more: ``objective``; ``seed``; ``init`` (a model whose weights a new run begins with); ``extend`` (steps by
            which a run goes on, with its own settings); ``override`` (go on although settings differ); ``profile``
            (trace a few steps); or groups of settings, such as ``train={"steps": 1000}``.

    Returns:
        Folder, steps, losses, and whether it was stopped.

    Raises:
        ConfigError: a setting is unknown or wrong; names it, and the nearest valid one.
        StoreError: the store is missing, or the run folder holds something else.
        CheckpointError: no checkpoint can be used, or the run was trained with other settings.
        RunError: another process trains there, memory does not suffice, or the loss stays not finite.
        KeyboardInterrupt: Ctrl-C before the first step, or a second one.

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
                raise ConfigError("extend goes on with a run, and resume=False does not; give one of them")
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
    """Check that loader processes can start: they import the program's file, where it has one.

    Raises:
        ConfigError: the program was read from standard input.
    """
    path = getattr(sys.modules["__main__"], "__file__", None)  # a notebook has none, which is fine
    if path is not None and not Path(path).is_file():
        raise ConfigError(
            f"data.workers: loader processes import the file of the program, and {path} is none; write the program to "
            "a file, or leave data.workers at 0"
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
