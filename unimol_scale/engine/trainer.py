"""The training loop: time, validation, logs and checkpoints. Losses belong to the objective, ranks to zero.py.

One step reads: batch → counts over all ranks → loss → finite? → step → log → validate → save.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from unimol_scale.checkpoints.pretrained import MODEL_FOLDER, save_tensors
from unimol_scale.config import to_yaml
from unimol_scale.data.dataset import (
    VALIDATION_SEED,
    StepPlanner,
    open_store_of,
    training_loader,
    validation_loader,
)
from unimol_scale.data.transfer import to_device
from unimol_scale.engine import checkpoint
from unimol_scale.engine.callbacks import RunLog
from unimol_scale.engine.learning import objective_of, teacher_of
from unimol_scale.engine.run_config import PretrainConfig
from unimol_scale.engine.schedule import learning_rate
from unimol_scale.engine.throughput import matmul_peak, memory_bytes
from unimol_scale.engine.zero import Ranks, ZeroModel
from unimol_scale.errors import CheckpointError, RunError, StoreError
from unimol_scale.objectives.base import Sample, total_loss
from unimol_scale.store.shards import commit_text

SUMMARY_SCHEMA_VERSION = 1
CONFIG_NAME = "config.yaml"
SUMMARY_NAME = "summary.json"
CHECKPOINTS = "checkpoints"
# A run whose last validation loss is this far above its best has diverged.
DIVERGED_FACTOR = 1.5


@dataclass(kw_only=True)
class Progress:
    """How far a run is; saved with every checkpoint.

    Attributes:
        step: optimizer steps done.
        molecules: seen, repeats counted.
        conformers: seen, repeats counted.
        atoms: of those molecules.
        flops: of those molecules' training, padding and recomputation not counted.
        seconds: of wall clock over all sessions.
    """

    step: int = 0
    molecules: int = 0
    conformers: int = 0
    atoms: int = 0
    flops: float = 0.0
    seconds: float = 0.0


class Trainer:
    """One run on this rank.

    Args:
        config: of the run.
        ranks: this process among the others.

    Raises:
        StoreError: the store is missing, unfinished or damaged, or the run folder holds something else.
        ConfigError: data and settings do not fit together.
    """

    def __init__(self, config: PretrainConfig, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        self._store = open_store_of(config.data)
        self._objective = objective_of(config)
        self._teacher = teacher_of(config, ranks.device)
        self._train_loader = training_loader(
            config.data,
            self._objective.corrupt_at,
            batch_size=config.train.global_batch_size,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        self._valid_loaders = [
            validation_loader(config.data, part.corrupt_at, rank=ranks.rank, world_size=ranks.world_size)
            for part in self._objective.parts
        ]
        self._checkpoints = config.output / CHECKPOINTS
        self._progress = Progress()
        self._best: dict[str, float] = {}
        self._final: dict[str, float] = {}
        self._model: ZeroModel | None = None

    def run(self, *, resume: bool) -> dict[str, Any]:
        """Train to the last step and return the summary; resume from the newest intact checkpoint if there is one.

        Raises:
            RunError: the loss is not finite.
            CheckpointError: there are checkpoints and none can be used, or ``resume`` is off and there are some.
        """
        found = self._find_checkpoint(resume)
        self._claim_folder()
        model = self._model = ZeroModel(
            lambda: self._objective.build_model(self._config.model), self._config, self._ranks
        )
        if found is not None:
            model.load(found.path)
            self._progress = Progress(**found.meta["progress"])
            self._best, self._final = found.meta["best"], found.meta["final"]
        dtype = torch.bfloat16 if self._config.train.precision == "bf16" else torch.float32
        peak = self._ranks.sum({"peak": matmul_peak(self._ranks.device, dtype)})["peak"]
        if not self._ranks.is_main:
            self._fit(model, None, peak)
            self._export(model)
            return {}
        with RunLog(self._config.output, self._config.name, self._config.train.steps, self._progress.step) as log:
            if found is not None:
                log.say(f"resumed from {found.path} (step {found.step})")
            self._fit(model, log, peak)
        self._export(model)
        return self._write_summary()

    def _claim_folder(self) -> None:
        """Make the run folder, or recognise it as this run's."""
        output = self._config.output
        if self._ranks.is_main:
            if output.is_dir() and any(output.iterdir()) and not (output / CONFIG_NAME).is_file():
                raise StoreError(f"the run folder {output} holds something else; choose another --output")
            self._checkpoints.mkdir(parents=True, exist_ok=True)
            commit_text(output / CONFIG_NAME, to_yaml(self._config))
        self._ranks.barrier()

    def _find_checkpoint(self, resume: bool) -> checkpoint.CheckpointInfo | None:
        found: checkpoint.CheckpointInfo | None = None
        if self._ranks.is_main:
            found, problems = checkpoint.newest_valid(self._checkpoints)
            for problem in problems:
                print(f"warning: skipped a damaged checkpoint: {problem}", flush=True)
        found = self._ranks.gather(found)[0]
        if found is None:
            return None
        if not resume:
            raise CheckpointError(
                f"{self._config.output} has checkpoints up to step {found.step}; "
                "continue them (--resume) or choose another --output"
            )
        if found.meta["objective_sha256"] != self._config.objective_sha256:
            raise CheckpointError(
                f"{found.path} was trained with other settings of the objective; they are in the run's {CONFIG_NAME}. "
                "Take those, or choose another --output"
            )
        if found.meta["world_size"] != self._ranks.world_size:
            raise CheckpointError(
                f"{found.path} was written by {found.meta['world_size']} ranks and this run has "
                f"{self._ranks.world_size}; start it with {found.meta['world_size']} ranks"
            )
        return found

    def _fit(self, model: ZeroModel, log: RunLog | None, peak: float) -> None:
        train, progress = self._config.train, self._progress
        if progress.step == 0:
            self._validate(model, log)
        mark, before = time.monotonic(), progress.molecules
        for samples in self._train_loader.steps(progress.step, train.steps):
            started = time.monotonic()
            rate = learning_rate(progress.step, train)
            terms, loss, norm = self._train_step(model, samples, rate)
            self._count(samples)
            progress.step += 1
            progress.seconds += time.monotonic() - started
            event = None
            if progress.step % train.log_every == 0 or progress.step == train.steps:
                elapsed = time.monotonic() - mark
                speed = (progress.molecules - before) / elapsed
                event = {
                    **asdict(progress),
                    "loss": loss,
                    **{f"loss/{name}": value for name, value in terms.items()},
                    "lr": rate,
                    "grad_norm": norm,
                    "molecules_per_second": speed,
                    "mfu": speed * progress.flops / progress.molecules / peak,
                    "memory_bytes": memory_bytes(self._ranks.device),
                    "skipped": 0,
                }
                mark, before = time.monotonic(), progress.molecules
            if log is not None:
                if event is not None:
                    log.event(event)
                log.advance(progress.step, event)
            paused = time.monotonic()
            if progress.step % train.validate_every == 0 or progress.step == train.steps:
                self._validate(model, log)
            if progress.step % train.checkpoint_every == 0 or progress.step == train.steps:
                self._save(model, log)
            mark += time.monotonic() - paused

    def _train_step(
        self, model: ZeroModel, samples: list[Sample], rate: float
    ) -> tuple[dict[str, float], float, float]:
        """Do one optimizer step; return the loss terms, the loss and the gradient norm, all global.

        Raises:
            RunError: the loss is not finite; names the molecules of the micro-batches where it arose.
        """
        weights = self._objective.at(self._progress.step).weights
        counts = self._ranks.sum({name: sum(s.counts[name] for s in samples) for name in weights})
        totals = dict.fromkeys(weights, 0.0)
        bad: list[int] = []
        for index, sample in enumerate(samples):
            sums = model.forward(self._on_device(sample))
            model.backward(total_loss(sums, counts, weights), last=index == len(samples) - 1)
            for name, value in sums.items():
                totals[name] += value.item()
            if not all(math.isfinite(value.item()) for value in sums.values()):
                bad.extend(sample.molecule_B.tolist())
        terms = means(self._ranks.sum(totals), counts)
        loss = sum(weights[name] * terms[name] for name in weights)
        if not math.isfinite(loss):
            molecules = sorted(index for part in self._ranks.gather(bad) for index in part)
            raise RunError(
                f"the loss is not finite at step {self._progress.step + 1}; it arose among the training molecules "
                f"numbered {molecules}. The last checkpoint is untouched; a lower train.learning_rate often helps"
            )
        return terms, loss, model.step(rate)

    def _count(self, samples: list[Sample]) -> None:
        """Add the molecules of a step, of all ranks, to the progress."""
        planner: StepPlanner = self._train_loader.planner
        num_atoms_G = planner.num_atoms_of(self._progress.step)
        self._progress.molecules += len(num_atoms_G)
        self._progress.conformers += len(num_atoms_G)
        self._progress.atoms += int(num_atoms_G.sum())
        objective, model = self._objective.at(self._progress.step), self._config.model
        self._progress.flops += sum(objective.training_flops(model, int(n)) for n in num_atoms_G)

    @torch.no_grad()
    def _validate(self, model: ZeroModel, log: RunLog | None) -> None:
        """Score the fixed validation corruptions and log them."""
        started = time.monotonic()
        weights = self._objective.weights
        totals, counts = dict.fromkeys(weights, 0.0), dict.fromkeys(weights, 0.0)
        model.train(False)
        for loader in self._valid_loaders:
            for repeat, samples in enumerate(loader.steps(0, self._config.data.validation_repeats)):
                counted = loader.planner(repeat)[2].num_counted(self._ranks.rank)
                for slot, sample in enumerate(samples):
                    sums = model.forward(self._on_device(sample))
                    for name in sums if slot < counted else ():
                        totals[name] += sums[name].item()
                        counts[name] += sample.counts[name]
        model.train(True)
        terms = means(self._ranks.sum(totals), self._ranks.sum(counts))
        loss = sum(weights[name] * terms[name] for name in weights)
        event = {"valid/loss": loss, **{f"valid/loss/{name}": value for name, value in terms.items()}}
        self._final = event
        if not self._best or loss < self._best["valid/loss"]:
            self._best = {**event, "step": self._progress.step}
        if log is not None:
            log.event({**asdict(self._progress), **event})
            parts = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
            log.say(
                f"step {self._progress.step}  validation loss {loss:.4f}  ({parts})  {time.monotonic() - started:.1f} s"
            )

    def _save(self, model: ZeroModel, log: RunLog | None) -> None:
        """Write, hash and publish a checkpoint; every rank takes part."""
        step = self._progress.step
        meta = {
            "progress": asdict(self._progress),
            "best": self._best,
            "final": self._final,
            "world_size": self._ranks.world_size,
            "objective_sha256": self._config.objective_sha256,
        }
        folder = checkpoint.temporary_folder(self._checkpoints, step)
        mine = checkpoint.hash_files(folder, model.save(folder, meta))
        files: dict[str, dict[str, Any]] = {}
        for part in self._ranks.gather(mine):
            files |= part
        if self._ranks.is_main:
            checkpoint.publish(self._checkpoints, step, files, meta)
            checkpoint.prune(self._checkpoints, self._config.train.keep_checkpoints)
        self._ranks.barrier()
        if log is not None:
            log.say(f"step {step}  checkpoint saved")

    def _on_device(self, sample: Sample) -> Sample:
        """Return the sample where this rank computes, with its targets complete."""
        moved = to_device(sample, self._ranks.device)
        return self._teacher(moved) if self._teacher is not None else moved

    def _export(self, model: ZeroModel) -> None:
        """Write the trained model as ``from_pretrained`` reads it; every rank takes part."""
        state = model.full_state()
        if self._ranks.is_main:
            folder = self._config.output / MODEL_FOLDER
            shutil.rmtree(folder, ignore_errors=True)  # of a session that was killed right here
            save_tensors(state, self._config.model, self._objective.kept_heads, folder)
        self._ranks.barrier()

    def _write_summary(self) -> dict[str, Any]:
        config, progress = self._config, self._progress
        final, best = self._final["valid/loss"], self._best["valid/loss"]
        summary = {
            "schema_version": SUMMARY_SCHEMA_VERSION,
            "name": config.name,
            "status": "finished",
            "size": config.size,
            "objective": config.objective.name,
            "seed": config.seed,
            "parameters": self._objective.count_parameters(config.model).as_dict(),
            "steps": progress.step,
            **{key: value for key, value in asdict(progress).items() if key != "step"},
            "global_batch_size": config.train.global_batch_size,
            "final": self._final,
            "best": self._best,
            "data_manifest_sha256": self._store.manifest_sha256,
            "validation_sha256": self._validation_sha256(),
            "objective_sha256": config.objective_sha256,
            "world_size": self._ranks.world_size,
            "diverged": not math.isfinite(final) or final > DIVERGED_FACTOR * best,
        }
        commit_text(config.output / SUMMARY_NAME, json.dumps(summary, indent=2) + "\n")
        return summary

    def _validation_sha256(self) -> str:
        """Hash of everything that decides the validation corruptions; only runs that share it can be compared."""
        split = self._store.manifest.splits["valid"]
        data = self._config.data
        identity = {
            "shards": [shard.sha256 for shard in split.shards],
            "molecules": min(data.validation_molecules, split.rows),
            "repeats": data.validation_repeats,
            "conformers": data.conformers,
            "hydrogens": data.hydrogens,
            "window": data.window,
            "seed": VALIDATION_SEED,
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def means(totals: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """Return total / count for each term; a term with nothing to predict is zero."""
    return {name: total / max(counts[name], 1.0) for name, total in totals.items()}


def run_is_finished(folder: Path) -> bool:
    """Return whether a run folder holds the summary of a finished run."""
    path = folder / SUMMARY_NAME
    return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["status"] == "finished"
