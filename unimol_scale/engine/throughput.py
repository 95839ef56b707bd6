"""What this device can do at best, the matrix-product peak that MFU is a share of, and the memory it took."""

import resource
import time

import torch

from unimol_scale.model.kernels import product

# Large enough to fill the device, small enough to take a fraction of a second.
_CPU_SIZE, _CUDA_SIZE = 1536, 8192
_REPEATS = 5


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s of the best of a few square matrix products on this rank's device and threads."""
    size = _CUDA_SIZE if device.type == "cuda" else _CPU_SIZE
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(_REPEATS):
        _synchronise(device)
        start = time.perf_counter()
        product(a, b)  # what the model itself calls
        _synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_bytes(device: torch.device) -> int:
    """Return the peak memory of this rank: of the device if it has its own, else of the process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
