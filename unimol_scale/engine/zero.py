"""The only file that knows DeepSpeed: start ranks, build a sharded model, step it, save it and load it.

Traps handled here, each measured: no shared-memory op is compiled at start, plain ``python`` needs the ranks'
variables, gradients of a variable number of micro-batches need explicit boundaries, and gloo ranks abort at exit unless
they part in order.
"""

import json
import logging
import os
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unimol_scale.config import merge
from unimol_scale.engine.run_config import PretrainConfig
from unimol_scale.errors import CheckpointError, ConfigError

_PARTING_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the others.

    Attributes:
        rank: from 0, over all nodes.
        world_size: number of ranks.
        device: where this rank computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier()

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return each value summed over the ranks, in double precision and in rank order on every rank."""
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return dict(zip(values, tensor.tolist(), strict=True))

    def gather(self, value: object) -> list[Any]:
        """Return the objects of all ranks, on every rank."""
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered


def start_ranks() -> Ranks:
    """Join the other ranks; under plain ``python``, be the only one."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(alone)
    # CPU ranks of one machine share its cores; torchrun would give one core to each.
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or os.environ["WORLD_SIZE"])
    os.environ.setdefault("LOCAL_SIZE", str(local_size))
    if not torch.cuda.is_available():
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    # Building this op at start needs a compiler and half a minute; training does not use it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.init_distributed(dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False)
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)


def part() -> None:
    """Leave the other ranks in order; without this, gloo ranks abort at exit after their work is done."""
    if dist.is_initialized():
        dist.barrier()
        time.sleep(_PARTING_SECONDS)
        dist.destroy_process_group()


def abandon(status: int) -> None:
    """End this process at once, without waiting for ranks that may be dead."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def deepspeed_settings(config: PretrainConfig, *, cuda: bool) -> dict[str, Any]:
    """Return the DeepSpeed configuration of a run.

    Raises:
        ConfigError: the file of additional settings is missing or is not JSON.
    """
    train = config.train
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,  # unused: micro-batches vary, and every loss is divided by global counts
        "gradient_accumulation_steps": 1,
        "gradient_clipping": train.gradient_clip,
        "steps_per_print": sys.maxsize,
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_optimization": {
            "stage": config.zero.stage,
            "contiguous_gradients": True,
            "overlap_comm": cuda,
            # DeepSpeed's own linear layer saves no memory here and made a CPU step of a small model twice as slow.
            "memory_efficient_linear": False,
        },
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": train.learning_rate,
                "betas": [train.beta1, train.beta2],
                "weight_decay": train.weight_decay,
                # The fused optimizer compiles on first use; on a CPU torch's own needs no compiler.
                "torch_adam": not cuda,
            },
        },
    }
    if config.zero.config is not None:
        try:
            extra = json.loads(config.zero.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"zero.config: {config.zero.config} is not a readable JSON file: {error}") from error
        settings = merge(settings, extra)
    return settings


class ZeroModel:
    """A model sharded by DeepSpeed with its optimizer.

    Args:
        factory: builds the module; called inside DeepSpeed's construction context under stage 3.
        config: of the run.
        ranks: this process.
    """

    def __init__(self, factory: Callable[[], nn.Module], config: PretrainConfig, ranks: Ranks) -> None:
        import deepspeed

        self._ranks = ranks
        settings = deepspeed_settings(config, cuda=ranks.device.type == "cuda")
        torch.manual_seed(config.seed)
        with deepspeed.zero.Init(config_dict_or_path=settings, enabled=config.zero.stage == 3):
            module = factory()
        self._engine, *_ = deepspeed.initialize(
            model=module, model_parameters=list(module.parameters()), config=settings
        )

    @property
    def module(self) -> nn.Module:
        """The module as built; under stage 3 its weights are shares."""
        module: nn.Module = self._engine.module
        return module

    def forward(self, sample: object) -> dict[str, Tensor]:
        """Run the module on a sample that is on this rank's device."""
        sums: dict[str, Tensor] = self._engine(sample)
        return sums

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of a share of the global loss; ``last`` marks the last micro-batch of the step.

        DeepSpeed averages gradients over ranks; every rank's loss is already divided by global counts, so the sum is
        wanted.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._ranks.world_size)

    def step(self, learning_rate: float) -> float:
        """Clip, move the weights, and return the gradient norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    def train(self, mode: bool) -> None:
        """Switch dropout on or off."""
        self._engine.train(mode)

    def save(self, folder: Path, meta: dict[str, Any]) -> list[str]:
        """Write this rank's share into a folder (all ranks call it); return the names of the files of this rank.

        Rank 0 also answers for files that belong to no rank.
        """
        self._engine.save_checkpoint(str(folder.parent), tag=folder.name, client_state=meta, save_latest=False)
        self._ranks.barrier()
        files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
        return files[self._ranks.rank :: self._ranks.world_size]

    def full_state(self) -> dict[str, Tensor]:
        """Return parameter name → whole weight on the CPU, fp32, on rank 0; {} elsewhere (all ranks call it).

        From the fp32 master weights; stage 0 shows none, so there it is what the model computes with.
        """
        from deepspeed.utils import safe_get_full_fp32_param

        state: dict[str, Tensor] = {}
        for name, parameter in self.module.named_parameters():
            master = safe_get_full_fp32_param(parameter)
            if self._ranks.is_main:
                state[name] = (parameter if master is None else master).detach().float().cpu().clone()
        return state

    def load(self, folder: Path) -> None:
        """Load weights and optimizer (all ranks call it).

        Raises:
            CheckpointError: DeepSpeed can not read it.
        """
        try:
            path, _ = self._engine.load_checkpoint(str(folder.parent), tag=folder.name)
        except Exception as error:
            raise CheckpointError(f"checkpoint {folder} can not be loaded: {error}") from error
        if path is None:
            raise CheckpointError(f"checkpoint {folder} can not be loaded: DeepSpeed found nothing in it")
