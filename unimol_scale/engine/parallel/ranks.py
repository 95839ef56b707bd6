"""Connects the processes of a run and lets them communicate: under deepspeed, torchrun, srun and plain python.

Problems handled here, each measured: DeepSpeed's shared-memory op must not be compiled at start, plain ``python`` lacks
the ranks' variables, and gloo ranks abort at exit unless they part in order.
"""

import logging
import os
import platform
import socket
import sys
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unimol_scale.common.machine import threads
from unimol_scale.common.machine.system_limits import port_is_taken
from unimol_scale.errors import ConfigError

_PARTING_SECONDS = 0.2
# Variables that every launcher sets for its processes.
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Those, and what DeepSpeed reads besides; ``start_ranks`` sets them for a single process.
RANK_VARIABLES = (*_VARIABLES, "LOCAL_SIZE")
# Variables in which schedulers that do not set the above say how many processes they started.
_TASK_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the others.

    Attributes:
        rank: from 0, over all nodes.
        world_size: number of ranks.
        device: device of this rank.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank reports and writes for all."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier()

    def sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return each value summed over the ranks, in double precision and in rank order on every rank."""
        tensor = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return dict(zip(values, tensor.tolist(), strict=True))

    def add_up(self, values: Tensor) -> Tensor:
        """Return a tensor summed over the ranks, on this rank's device, without waiting for the device."""
        total = values.clone()
        dist.all_reduce(total)
        return total

    def exchange(self, values: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send each rank its part of a tensor; return what arrived from all ranks, in rank order.

        Args:
            values: [sum of ``sent``], on this rank's device: the parts for rank 0, 1, … in turn.
            sent: number of elements for each rank.
            received: number of elements from each rank.
        """
        if self.world_size == 1:
            return values
        arrived = values.new_empty(sum(received))
        dist.all_to_all_single(arrived, values, list(received), list(sent))
        return arrived

    def copy_from_main(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of rank 0; every rank passes the same number of tensors with the same shapes."""
        for tensor in tensors:
            dist.broadcast(tensor, src=0)

    def told_by_main(self, value: object = None) -> Any:  # noqa: ANN401 - whatever was told
        """Return, on every rank, the object that rank 0 gives."""
        told = [value]
        dist.broadcast_object_list(told, src=0, device=self.device)
        return told[0]

    def gather(self, value: object) -> list[Any]:
        """Return the objects of all ranks, on every rank."""
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered


def start_ranks(timeout_minutes: float = 30.0) -> Ranks:
    """Join the other ranks; under plain ``python``, be the only rank.

    Args:
        timeout_minutes: how long a rank waits for the others before it fails. It must be long enough for a slow file
            system, yet finite in case a rank is dead.

    Raises:
        ConfigError: the launcher started several processes without telling them about each other, or they cannot
            connect because the port is taken or the address is wrong.
    """
    _complete_environment()
    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or os.environ["WORLD_SIZE"])
    os.environ.setdefault("LOCAL_SIZE", str(local_size))

    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed

    # Building this op at start needs a compiler and half a minute, and training does not use it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    try:
        deepspeed.init_distributed(
            dist_backend="nccl" if device.type == "cuda" else "gloo",
            verbose=False,
            timeout=timedelta(minutes=timeout_minutes),
        )
    except dist.DistNetworkError as error:
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        if port_is_taken(error):
            raise ConfigError(
                f"port {port} on {address} is taken, perhaps by another run: give this one another port, for example "
                f"--master_port {int(port) + 1} behind deepspeed or torchrun"
            ) from error
        raise ConfigError(
            f"the ranks cannot connect at {address}, port {port}: {str(error).splitlines()[0]}. Check that every node "
            "can reach this address, and that the first rank runs there"
        ) from error
    return Ranks(rank=dist.get_rank(), world_size=dist.get_world_size(), device=device)


def share_cores(ranks: Ranks, parameters: int) -> int:
    """Choose how many CPU threads this rank computes with, and return their number; every rank calls it.

    Unless the user sets ``OMP_NUM_THREADS``, the ranks of a machine share its cores, or keep the cores they are bound
    to, and a model on a CPU gets no more threads than its size can use.

    Args:
        ranks: this process among the others.
        parameters: number of parameters of the model.
    """
    cores = granted_cores(ranks)
    number = threads.threads_for(parameters, cores) if ranks.device.type == "cpu" else threads.given_threads() or cores
    torch.set_num_threads(number)
    return number


def granted_cores(ranks: Ranks) -> int:
    """Return how many cores this rank may use beside the other ranks of its machine; every rank calls it."""
    mine = threads.affinity()
    found = ranks.gather((platform.node(), mine))
    neighbours = [cores for node, cores in found if node == platform.node()]
    # A container's quota applies to all of its processes together.
    return int(max(1, min(threads.fair_share(mine, neighbours), threads.cpu_quota() / len(neighbours))))


def _complete_environment() -> None:
    """Check the variables that the launcher set, or set them for a single process.

    Raises:
        ConfigError: some are missing, or there are several processes and none of the variables is set.
    """
    if "RANK" not in os.environ:
        for name in _TASK_COUNTS:
            if int(os.environ.get(name, "1")) > 1:
                raise ConfigError(
                    f"{name} says that {os.environ[name]} processes were started, but RANK is not set, so each would "
                    f"train alone. Set {', '.join(_VARIABLES)} for each of them, or use torchrun"
                )
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update(alone)
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise ConfigError(f"RANK is set but {', '.join(missing)} is not; a launcher sets {', '.join(_VARIABLES)}")


def leave_ranks() -> None:
    """Leave the other ranks in order; without this, gloo ranks abort at exit after their work is done."""
    if dist.is_initialized():
        dist.barrier()
        time.sleep(_PARTING_SECONDS)
        dist.destroy_process_group()


def end_process(status: int) -> None:
    """End this process at once, without waiting for ranks that may be dead."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
