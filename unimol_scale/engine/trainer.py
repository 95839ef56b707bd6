"""The training loop of a run: steps, logging, validation, checkpoints.

One step reads: batch → vote and counts over all ranks → losses and gradients → finite? → step → log → validate → save.
Every number that decides what happens next is the same on all ranks, so all ranks decide alike.
"""

import logging
import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from enum import Enum
from typing import IO

import numpy as np
import torch

from unimol_scale.checkpoints.run.checkpoint_folder import CheckpointInfo, folder_name, read_manifest
from unimol_scale.checkpoints.run.shares import ShareReader
from unimol_scale.checkpoints.weights import save_checkpoint
from unimol_scale.common.run_files import CHECKPOINTS, MODEL_FOLDER
from unimol_scale.config import to_tree
from unimol_scale.data.dataset import open_store_of, training_loader
from unimol_scale.data.steps.planner import StepPlanner
from unimol_scale.engine.beginning import Beginning, find_beginning
from unimol_scale.engine.checkpointing import RunCheckpoints
from unimol_scale.engine.graphed_micro_batches import capture_on
from unimol_scale.engine.incidents import Incidents
from unimol_scale.engine.log.profiling import StepProfiler
from unimol_scale.engine.log.run_log import NoLog, RunLog
from unimol_scale.engine.log.throughput import Speedometer, matmul_peak, memory_bytes
from unimol_scale.engine.objective_setup import objective_of, teacher_of
from unimol_scale.engine.optimizer_step import OptimizerStep, StepResult, sample_completer
from unimol_scale.engine.parallel.deepspeed_model import DeepSpeedModel
from unimol_scale.engine.parallel.ranks import Ranks, share_cores
from unimol_scale.engine.parallel.sharded_model import ShardModel
from unimol_scale.engine.planning.corruption_check import check_own_objective
from unimol_scale.engine.planning.max_pairs import with_max_pairs_here, with_side_by_side_here, with_stage_here
from unimol_scale.engine.planning.rehearsal import prepare_host_memory, rehearse
from unimol_scale.engine.run.initial_weights import initial_weights
from unimol_scale.engine.run.resume import settings_that_matter
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.run_folder import claim_folder, reopen, write_config, write_summary
from unimol_scale.engine.run.run_progress import Progress, read_progress
from unimol_scale.engine.run.schedule import learning_rate
from unimol_scale.engine.run.settings_changes import keep_history
from unimol_scale.engine.run.stopping import InterruptRequest, StopRequest
from unimol_scale.engine.validation import Validation
from unimol_scale.errors import RunError
from unimol_scale.objectives.base import corruption_of

_STOP = "stop"
_log = logging.getLogger(__name__)


class SessionStatus(Enum):
    """How a session of a run ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    ROLLED_BACK = "rolled back"


class Trainer:
    """One run, on this rank.

    Args:
        config: configuration of the run.
        ranks: this process among the others.
        shard: creates the model that the ranks share; None: DeepSpeed's.

    Raises:
        StoreError: the store is missing, unfinished or damaged.
        ConfigError: data and settings do not fit together.
    """

    def __init__(self, config: PretrainConfig, ranks: Ranks, shard: ShardModel | None = None) -> None:
        self._ranks = ranks
        self._shard: ShardModel = shard or DeepSpeedModel
        self._store = open_store_of(config.data)
        histogram = self._store.manifest.splits["train"].size_histogram
        self._histogram = {int(n): rows for n, rows in histogram.items()}
        self._objective = objective_of(config)
        check_own_objective(self._objective, config)
        share_cores(ranks, self._objective.count_parameters(config.model).total)
        config = with_stage_here(config, self._objective, self._histogram, ranks)
        config = with_max_pairs_here(config, self._objective, self._histogram, ranks)
        config = self._config = with_side_by_side_here(config, ranks)
        torch.set_num_threads(max(torch.get_num_threads(), config.train.side_by_side or 1))
        self._capture = capture_on(ranks.device) if config.train.cuda_graphs else None
        self._complete = sample_completer(ranks.device, teacher_of(config, ranks.device))
        self._train_loader = training_loader(
            config.data,
            corruption_of(self._objective, config.model, config.data.shapes),
            batch_size=config.train.global_batch_size,
            seed=config.seed,
            rank=ranks.rank,
            world_size=ranks.world_size,
            at_once=config.train.side_by_side or 1,
        )
        self._validation = Validation(config, self._objective, self._complete, ranks)
        self._checkpoints = RunCheckpoints(config.output / CHECKPOINTS, ranks, config.train)
        self._settings = settings_that_matter(config, self._store.manifest_sha256)
        self._progress = Progress()
        self._incidents = Incidents(config, self._store.split("train"), ranks)
        self._best: dict[str, float] = {}
        self._final: dict[str, float] = {}
        self._validated_at = -1
        # Only validations after the first step count, since a checkpoint can only belong to one of these.
        self._lowest = math.inf
        self._lock: IO[bytes] | None = None
        self._beginning = Beginning()

    def run(
        self, stop: StopRequest | InterruptRequest, *, resume: bool, override: bool = False, profile: bool = False
    ) -> SessionStatus:
        """Train to the last step or a request to stop, starting from the newest intact checkpoint if there is one.

        Args:
            stop: receives requests to stop.
            resume: continue from what the run folder holds.
            override: continue even if the checkpoint was trained with other settings.
            profile: record a few steps with torch's profiler.

        Raises:
            StoreError: the run folder holds something other than a run.
            RunError: another process is training there, memory is too small for the largest micro-batch, too many steps
                in a row were skipped, there were too many rollbacks, the last checkpoint could not be written, or no
                step would be done although settings differ.
            CheckpointError: there are checkpoints but none is usable, ``resume`` is off and there are some, the newest
                was trained with other settings, or the trunk has no suitable one.
        """
        self._lock = claim_folder(self._config) if self._ranks.is_main else None
        self._ranks.barrier()
        begin = self._beginning = find_beginning(
            self._config,
            self._checkpoints,
            self._settings,
            self._store.manifest_sha256,
            _log.warning,
            resume=resume,
            override=override,
        )
        prepare_host_memory(self._config, self._objective, self._histogram, self._ranks)
        self._model = self._shard(lambda: self._objective.build_model(self._config.model), self._config, self._ranks)
        train = self._config.train
        at_once = train.side_by_side or 1
        self._step = OptimizerStep(
            self._model, self._objective, self._complete, self._ranks, self._config.seed, at_once, self._capture
        )
        if train.rehearse:
            rehearse(self._config, self._objective, self._histogram, self._ranks, self._step.try_out)
            self._model.drop_gradients()
        said = self._begin(begin)
        dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
        peak = self._ranks.sum({"peak": matmul_peak(self._ranks.device, dtype)})["peak"]
        profiler = StepProfiler(self._config.output / "profile" if profile and self._ranks.is_main else None)
        outcome = SessionStatus.ROLLED_BACK
        stop.steps_begin()
        with profiler:
            while outcome is SessionStatus.ROLLED_BACK:
                with self._open_log() as self._log:
                    for line in said:
                        self._log.say(line)
                    outcome = self._fit(stop, profiler, Speedometer(peak))
                    self._log.draw()
                    if outcome is SessionStatus.ROLLED_BACK:
                        said = self._roll_back()
        if outcome is SessionStatus.FINISHED:
            self._export()
        return outcome

    def close(self) -> None:
        """Release the run folder, as the end of the process would; waits for what is being written."""
        self._checkpoints.join()
        if self._lock is not None:
            self._lock.close()

    def _begin(self, beginning: Beginning) -> list[str]:
        """Load the state that this session starts from, claim the folder for this run, and return messages about it."""
        config, said = self._config, beginning.sentences(self._config)
        if config.train.optimizer != "adamw":
            said.insert(0, f"the optimizer is {config.train.optimizers}")
        if beginning.found is not None:
            self._go_to(beginning.found)
        elif config.init is not None:
            read, sentence = initial_weights(config, self._model.module)
            self._model.take_weights(read)
            said.insert(0, sentence)
        if self._ranks.is_main:
            keep_history(config, self._progress.step)
            if self._progress.step < config.train.steps:
                reopen(config.output)
            write_config(config)
        return said

    def _open_log(self) -> RunLog | NoLog:
        if not self._ranks.is_main:
            return NoLog()
        config = self._config
        return RunLog(config.output, config.name, config.train.steps, self._progress.step, config.log.sinks)

    def _fit(self, stop: StopRequest | InterruptRequest, profiler: StepProfiler, speed: Speedometer) -> SessionStatus:
        """Do steps until the last one, a request to stop, or a spike that requires a rollback."""
        train, progress = self._config.train, self._progress
        if progress.step == 0:
            with speed.pause("validation", every=train.validate_every):
                self._validate()
        last = progress.data_step + train.steps - progress.step
        due = False  # whether a checkpoint is due
        for samples in speed.feed(self._train_loader.steps(progress.data_step, last)):
            rate = learning_rate(progress.step, train)
            ballot = {_STOP: float(stop.reason is not None), **self._checkpoints.ballot()}
            result = self._step(samples, progress.data_step, rate, ballot)
            if train.ema_decay is not None and not result.skipped:
                self._model.ema_update(train.ema_decay)
            self._account(result, speed)
            profiler.step()
            self._report(result, rate, speed)
            # While steps are skipped, nothing is published: checkpoints saved before them may contain the cause. A
            # request to stop also waits for a step that is not skipped.
            if not result.skipped:
                with speed.pause("publishing", every=train.checkpoint_every):
                    self._checkpoints.settle(result.votes, self._log)
            if self._goes_back(result):
                return SessionStatus.ROLLED_BACK
            done, stopping = progress.step == train.steps, result.votes[_STOP] > 0 and not result.skipped
            if progress.step % train.validate_every == 0 or done:
                with speed.pause("validation", every=train.validate_every):
                    due |= self._validate()
            due |= progress.step % train.checkpoint_every == 0
            # A branch needs the checkpoint of exactly this step; a skipped step changed no weights.
            exact = progress.step in train.keep_steps
            if done or stopping or exact or (due and not result.skipped):
                with speed.pause("saving", every=train.checkpoint_every):
                    self._save()
                due = False
            if (done or stopping) and self._checkpoints.finish_save(self._log):
                raise RunError(
                    f"the checkpoint of step {progress.step}, the last of this session, could not be saved. Free disk "
                    f"space in {self._config.output} and run the same command again: it resumes from an earlier "
                    "checkpoint"
                )
            if stopping and not done:
                self._log.say(f"step {progress.step}  stopped ({stop.why()}); the same command resumes from here")
                return SessionStatus.STOPPED
        return SessionStatus.FINISHED

    def _goes_back(self, result: StepResult) -> bool:
        """Return whether the run must go back to a checkpoint; waits for one that is still being written."""
        try:
            back = self._incidents.call_for_rollback(result, self._progress, self._log)
        except RunError:
            if result.skipped:
                self._checkpoints.drop_save(self._log)
            else:
                self._checkpoints.finish_save(self._log)
            raise
        if back:
            self._checkpoints.finish_save(self._log)
        return back

    def _account(self, result: StepResult, speed: Speedometer) -> None:
        """Count the finished step and the molecules of all ranks in it."""
        progress, model = self._progress, self._config.model
        planner: StepPlanner = self._train_loader.planner
        num_atoms_G = planner.num_atoms_of(progress.data_step)
        objective = self._objective.at(progress.data_step)
        # Molecules of the same size cost the same.
        sizes, counts = np.unique(num_atoms_G, return_counts=True)
        flops = sum(
            count * objective.training_flops(model, size)
            for size, count in zip(sizes.tolist(), counts.tolist(), strict=True)
        )
        progress.step += 1
        progress.data_step += 1
        progress.molecules += len(num_atoms_G)
        progress.conformers += len(num_atoms_G)
        progress.atoms += int(num_atoms_G.sum())
        progress.flops += flops
        progress.seconds += speed.step(len(num_atoms_G), flops)
        progress.skipped += result.skipped
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if result.skipped else 0

    def _report(self, result: StepResult, rate: float, speed: Speedometer) -> None:
        """Log the step if an event is due."""
        train, progress = self._config.train, self._progress
        event, remaining = None, None
        if progress.step % train.log_every == 0 or progress.step == train.steps:
            event = {
                **asdict(progress),
                "loss": result.loss,
                **{f"loss/{name}": value for name, value in result.terms.items()},
                "lr": rate,
                "grad_norm": result.grad_norm,
                **speed.read(),
                "memory_bytes": memory_bytes(self._ranks.device),
            }
            remaining = speed.remaining(train.steps - progress.step)
            self._log.event(event)
        self._log.advance(progress.step, event, remaining)

    def _roll_back(self) -> list[str]:
        """Go back to the newest checkpoint and skip the molecules used since; return messages about it."""
        before = self._progress
        found = self._checkpoints.find(self._log.warn) or self._beginning.found
        if found is None:  # the spike occurred before the first checkpoint
            return []
        self._go_to(found)
        self._progress = replace(
            self._progress, data_step=before.data_step, rollbacks=before.rollbacks + 1, seconds=before.seconds
        )
        return [f"goes on from {found.path} (step {found.step})"]

    def _validate(self) -> bool:
        """Score the fixed validation corruptions and log the losses; return whether this is the lowest loss so far."""
        started = time.monotonic()
        with self._model.averaged_weights() if self._config.train.ema_decay is not None else nullcontext():
            scores = self._validation(self._model)
        loss = scores["valid/loss"]
        self._final, self._validated_at = scores, self._progress.step
        if not self._best or loss < self._best["valid/loss"]:
            self._best = {**scores, "step": self._progress.step}
        self._log.event({**asdict(self._progress), **scores})
        prefix = "valid/loss/"
        terms = "  ".join(f"{k.removeprefix(prefix)} {v:.4f}" for k, v in scores.items() if k.startswith(prefix))
        self._log.say(
            f"step {self._progress.step}  validation loss {loss:.4f}  ({terms})  {time.monotonic() - started:.1f} s"
        )
        lowest = self._progress.step > 0 and loss < self._lowest
        self._lowest = loss if lowest else self._lowest
        return lowest

    def _save(self) -> None:
        """Start to save the state; every rank takes part."""
        branch = self._beginning.branch
        meta = {
            "progress": asdict(self._progress),
            "best": self._best,
            "final": self._final,
            "spikes": self._incidents.state(),
            "lowest": self._lowest if math.isfinite(self._lowest) else None,
            "settings": self._settings,
            "config": to_tree(self._config),
            "changes": self._beginning.changes,
            "branch": None if branch is None else vars(branch),
            "optimizer_steps": self._model.optimizer_steps,
            "validation_loss": self._final["valid/loss"] if self._validated_at == self._progress.step else None,
            "world_size": self._ranks.world_size,
            "model": to_tree(self._config.model),
            "heads": to_tree(self._objective.kept_heads),
            "seen": to_tree(self._objective.seen(self._config.model)),
            "hydrogens": self._store.manifest.hydrogens and self._config.data.hydrogens != "drop",
        }
        self._checkpoints.start_save(self._progress.step, self._model.fragments(), meta, self._log)

    def _go_to(self, found: CheckpointInfo) -> None:
        """Load the state of a checkpoint."""
        meta = found.meta
        self._model.restore(ShareReader(found.path).read, meta["optimizer_steps"])
        # Only this session's skipped steps count as a streak; one from an earlier session must not end every later
        # start.
        self._progress = replace(read_progress(found), skipped_in_a_row=0)
        self._best, self._final = meta["best"], meta["final"]
        lowest = meta.get("lowest", self._best["valid/loss"] if self._best.get("step") else None)
        self._lowest = math.inf if lowest is None else lowest
        self._incidents.restore(meta["spikes"])

    def _export(self) -> None:
        """Write the trained model for ``from_pretrained``, then the curves, and the summary last."""
        if self._ranks.is_main:
            folder = self._config.output / MODEL_FOLDER
            shutil.rmtree(folder, ignore_errors=True)  # left by a session that was killed at this point
            # Exported from the checkpoint just saved: the whole model may not fit in memory beside the run's own state.
            last = read_manifest(self._config.output / CHECKPOINTS / folder_name(self._progress.step))
            save_checkpoint(last, folder)
            write_summary(
                self._config,
                self._objective,
                self._store,
                self._progress,
                self._final,
                self._best,
                self._ranks.world_size,
                self._beginning.as_summary(self._progress),
            )
            self._checkpoints.prune_finished(last, self._log)
        self._ranks.barrier()
