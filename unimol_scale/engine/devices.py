"""The devices that plans are made for: memory and peak of the usual ones, or of what is here."""

import re
from dataclasses import dataclass

import torch

from unimol_scale.engine.host import available_bytes, local_ranks
from unimol_scale.engine.throughput import matmul_peak
from unimol_scale.errors import ConfigError, nearest

DEFAULT_DEVICE = "h100"
DEFAULT_MFU = 0.4
_UNITS = {"": 1e9, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2.0**10, "MIB": 2.0**20}
_UNITS |= {"GIB": 2.0**30, "TIB": 2.0**40}
_QUANTITY = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of device.

    Attributes:
        memory: bytes.
        bf16: peak of dense matrix products, FLOP/s, without sparsity.
        fp32: the same in fp32, without tensor cores, which would round to TF32.
    """

    memory: float
    bf16: float
    fp32: float


# From the makers' data sheets.
DEVICES = {
    "a100": Device(memory=80e9, bf16=312e12, fp32=19.5e12),
    "a100-40gb": Device(memory=40e9, bf16=312e12, fp32=19.5e12),
    "a10g": Device(memory=24e9, bf16=70e12, fp32=31.2e12),
    "b200": Device(memory=180e9, bf16=2250e12, fp32=75e12),
    "h100": Device(memory=80e9, bf16=989e12, fp32=67e12),
    "h200": Device(memory=141e9, bf16=989e12, fp32=67e12),
    "l4": Device(memory=24e9, bf16=121e12, fp32=30.3e12),
    "l40s": Device(memory=48e9, bf16=362e12, fp32=91.6e12),
    "mi300x": Device(memory=192e9, bf16=1307e12, fp32=163.4e12),
    "rtx4090": Device(memory=24e9, bf16=165e12, fp32=82.6e12),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a rank computes on.

    Attributes:
        name: of the device.
        is_gpu: whether it has memory of its own.
        memory: bytes that a rank may use; None: not known.
        peak_flops: FLOP/s at best.
        mfu: share of it that useful work is expected to reach.
    """

    name: str
    is_gpu: bool
    memory: float | None
    peak_flops: float
    mfu: float


def named_target(
    name: str, precision: str, *, memory: float | None = None, peak_flops: float | None = None, mfu: float = DEFAULT_MFU
) -> Target:
    """Return a device by its name, with its memory or peak replaced by those given.

    Raises:
        ConfigError: no device has that name, or a number is out of range.
    """
    if name.lower() not in DEVICES:
        raise ConfigError(f"--device: unknown device {name!r}; {nearest(name.lower(), DEVICES)}; or say --peak-flops")
    if not 0.0 < mfu <= 1.0:
        raise ConfigError(f"--mfu must be above 0 and at most 1, got {mfu:g}; 0.3 to 0.5 are usual")
    if peak_flops is not None and not peak_flops > 0.0:
        raise ConfigError(f"--peak-flops must be positive (FLOP/s, such as 989e12), got {peak_flops:g}")
    device = DEVICES[name.lower()]
    return Target(
        name=name.lower() if peak_flops is None else "given peak",
        is_gpu=True,
        memory=device.memory if memory is None else memory,
        peak_flops=peak_flops or (device.bf16 if precision == "bf16" else device.fp32),
        mfu=mfu,
    )


def target_here(precision: str) -> Target:
    """Return the device of this process: its memory, and its peak as a matrix product reaches it now."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    memory: float | None
    if torch.cuda.is_available():
        device = torch.device("cuda")
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, float(properties.total_memory)
    else:
        device = torch.device("cpu")
        available = available_bytes()
        name, memory = "this CPU", None if available is None else available / local_ranks()
    peak = matmul_peak(device, dtype)
    return Target(name=name, is_gpu=device.type == "cuda", memory=memory, peak_flops=peak, mfu=DEFAULT_MFU)


def parse_bytes(text: str) -> float:
    """Return the bytes of ``80GB``, ``74.5GiB``, or ``80``, which means GB.

    Raises:
        ConfigError: it is no such quantity.
    """
    match = _QUANTITY.fullmatch(text)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in _UNITS:
        hint = nearest(unit, ["MB", "GB", "TB", "MiB", "GiB", "TiB"]) if match else "a number and a unit, such as 80GB"
        raise ConfigError(f"--gpu-memory: {text!r} is not an amount of memory; {hint}")
    value = float(match.group(1)) * _UNITS[unit]
    if value <= 0:
        raise ConfigError(f"--gpu-memory must be positive, got {text!r}")
    return value
