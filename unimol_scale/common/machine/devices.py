"""Picks the device of a command, and recognises errors about full memory. Imports torch on first use."""

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from unimol_scale.errors import ConfigError, RunError

if TYPE_CHECKING:
    import torch

# torch has one exception for its own allocator on a GPU. Every other allocation fails with a RuntimeError whose text
# alone says so: malloc's, those of the CUDA runtime, of cuBLAS, cuDNN and their relatives, and NCCL's. A handle of
# cuBLAS or cuDNN that cannot be created was refused its workspace.
_MEMORY_IS_FULL = re.compile(
    r"out[ _]of[ _](?:device[ _]|host[ _])?memory|(?:can't|cannot) allocate memory|not enough memory|bad_alloc"
    r"|_ALLOC(?:ATION)?_FAILED|MemoryAllocation|_NOT_INITIALIZED when calling `?cu\w+Create|Failed to CUDA \w*alloc"
    r"|rocblas_status_memory_error",
    re.IGNORECASE,
)


def pick_device(name: str) -> "torch.device":
    """Return the device named by ``auto``, ``cpu`` or ``cuda``; ``auto`` is the GPU if there is one, else the CPU.

    Raises:
        ConfigError: the device is ``cuda`` and torch finds no GPU.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no GPU that torch can use; use --device cpu")
    return torch.device(name)


def full_memory(error: BaseException) -> str | None:
    """Return the line of an error's text that says that memory is full; None for any other error."""
    import torch

    lines = str(error).splitlines()
    said = next((line.strip() for line in lines if _MEMORY_IS_FULL.search(line)), None)
    if said is not None or not isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return said
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def refusing_full_memory(advice: str) -> Iterator[None]:
    """Turn out-of-memory errors of the libraries into an error that says what to do; also usable as a decorator.

    Args:
        advice: what the user can do, as a whole sentence.

    Raises:
        RunError: memory is full.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = full_memory(error)
        if reason is None:
            raise
        raise RunError(f"memory is full: {reason}. {advice}") from error


def set_own_threads(count: int) -> None:
    """Set the number of threads of torch operations in the calling thread, independently of other threads.

    The first call of ``torch.get_num_threads`` in a thread overwrites that thread's own setting with the one made last
    in any thread. It is therefore called before the number is set.
    """
    import torch

    torch.get_num_threads()
    torch.set_num_threads(count)
