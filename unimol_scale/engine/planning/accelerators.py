"""Memory and speed of the devices that runs are planned for: known models, or the device of this machine."""

import math
import re
from dataclasses import dataclass, replace

import torch

from unimol_scale.common.machine.memory import available_bytes, local_ranks
from unimol_scale.engine.log.throughput import copy_bandwidth, matmul_peak
from unimol_scale.errors import ConfigError, nearest

# Fraction of its peak that a CPU is expected to reach; a GPU's follows from its bandwidth (roofline.py).
CPU_MFU = 0.4
# Fractions of the data sheets' peaks that large matrix products and copies reach: 790 of 989 TFLOP/s, 4.3 of 4.8 TB/s.
_MATMUL_SHARE, _COPY_SHARE = 0.8, 0.9
# Fraction of a link's bandwidth that collectives of many megabytes are assumed to reach.
_LINK_SHARE = 0.8
# GPUs per machine, and the default link of each of them to other machines: an adapter of 200 Gbit/s.
GPUS_PER_MACHINE, DEFAULT_NETWORK = 8, 25e9
_PCIE = 32e9
_UNITS = {"": 1e9, "B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KIB": 2.0**10, "MIB": 2.0**20}
_UNITS |= {"GIB": 2.0**30, "TIB": 2.0**40}
_QUANTITY = re.compile(r"\s*((?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A kind of device.

    Attributes:
        memory: bytes.
        bf16: peak of dense bf16 matrix products, FLOP/s, without sparsity.
        fp32: the same in fp32 without tensor cores, which would round to TF32.
        bandwidth: of its memory, bytes per second.
        link: to the other devices of its machine, bytes per second in each direction.
    """

    memory: float
    bf16: float
    fp32: float
    bandwidth: float
    link: float = _PCIE


# From the manufacturers' data sheets.
DEVICES = {
    "a100": Device(memory=80e9, bf16=312e12, fp32=19.5e12, bandwidth=2.04e12, link=300e9),
    "a100-40gb": Device(memory=40e9, bf16=312e12, fp32=19.5e12, bandwidth=1.55e12, link=300e9),
    "a10g": Device(memory=24e9, bf16=70e12, fp32=31.2e12, bandwidth=0.6e12),
    "b200": Device(memory=180e9, bf16=2250e12, fp32=75e12, bandwidth=7.7e12, link=900e9),
    "h100": Device(memory=80e9, bf16=989e12, fp32=67e12, bandwidth=3.35e12, link=450e9),
    "h200": Device(memory=141e9, bf16=989e12, fp32=67e12, bandwidth=4.8e12, link=450e9),
    "l4": Device(memory=24e9, bf16=121e12, fp32=30.3e12, bandwidth=0.3e12),
    "l40s": Device(memory=48e9, bf16=362e12, fp32=91.6e12, bandwidth=0.864e12),
    "mi300x": Device(memory=192e9, bf16=1307e12, fp32=163.4e12, bandwidth=5.3e12, link=448e9),
    "rtx4090": Device(memory=24e9, bf16=165e12, fp32=82.6e12, bandwidth=1.01e12),
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """The device that a rank computes on.

    Attributes:
        name: name of the device.
        is_gpu: whether it has memory of its own.
        memory: bytes that a rank may use; None: unknown.
        peak_flops: peak FLOP/s.
        matmul_flops: FLOP/s that large matrix products reach.
        mfu: fraction of the peak that useful work is expected to reach; None: derived from the bandwidth.
        bandwidth: bytes per second that the memory reaches; None: unknown.
        link: bytes per second between the ranks of a machine; None: not counted.
        network: bytes per second of each rank to other machines.
    """

    name: str
    is_gpu: bool
    memory: float | None
    peak_flops: float
    matmul_flops: float
    mfu: float | None
    bandwidth: float | None
    link: float | None
    network: float = DEFAULT_NETWORK * _LINK_SHARE


def named_target(name: str, precision: str, flag: str = "--device") -> Target:
    """Return a device by its name; ``flag`` is the option that gave it, for messages.

    Raises:
        ConfigError: no device has that name.
    """
    if name.lower() not in DEVICES:
        raise ConfigError(f"{flag}: unknown device {name!r}; {nearest(name.lower(), DEVICES)}")
    device = DEVICES[name.lower()]
    peak = device.bf16 if precision == "bf16" else device.fp32
    return Target(
        name=name.lower(),
        is_gpu=True,
        memory=device.memory,
        peak_flops=peak,
        matmul_flops=peak * _MATMUL_SHARE,
        mfu=None,
        bandwidth=device.bandwidth * _COPY_SHARE,
        link=device.link * _LINK_SHARE,
    )


def with_given(
    target: Target,
    *,
    memory: float | None = None,
    peak_flops: float | None = None,
    mfu: float | None = None,
    network: float = DEFAULT_NETWORK,
) -> Target:
    """Return a device whose memory, peak, MFU and network are replaced by the given values.

    Raises:
        ConfigError: a number is out of range.
    """
    if mfu is not None and not 0.0 < mfu <= 1.0:
        raise ConfigError(f"--mfu must be above 0 and at most 1, got {mfu:g}; 0.2 to 0.4 are usual")
    if peak_flops is not None and not 0.0 < peak_flops < math.inf:
        raise ConfigError(f"--peak-flops must be positive (FLOP/s, such as 989e12), got {peak_flops:g}")
    if peak_flops is not None:
        target = replace(target, name="given peak", peak_flops=peak_flops, matmul_flops=peak_flops * _MATMUL_SHARE)
    return replace(
        target,
        memory=target.memory if memory is None else memory,
        mfu=target.mfu if mfu is None else mfu,
        network=network * _LINK_SHARE,
    )


def target_here(precision: str) -> Target:
    """Return the device of this process: its memory, and its speed as matrix products and copies measure it now."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if torch.cuda.is_available():
        device = torch.device("cuda")
        properties = torch.cuda.get_device_properties(device)
        known = next((DEVICES[name] for name in sorted(DEVICES) if name in properties.name.lower()), None)
        peak = matmul_peak(device, dtype)
        return Target(
            name=properties.name,
            is_gpu=True,
            memory=float(properties.total_memory),
            peak_flops=peak,
            matmul_flops=peak,
            mfu=None,
            bandwidth=copy_bandwidth(device),
            link=(known.link if known else _PCIE) * _LINK_SHARE,
        )
    available = available_bytes()
    peak = matmul_peak(torch.device("cpu"), dtype)
    return Target(
        name="this CPU",
        is_gpu=False,
        memory=None if available is None else available / local_ranks(),
        peak_flops=peak,
        matmul_flops=peak,
        mfu=CPU_MFU,
        bandwidth=None,
        link=None,
    )


def parse_bytes(text: str, flag: str = "--gpu-memory") -> float:
    """Return the bytes of ``80GB``, ``74.5GiB``, or ``80``; without a unit, GB is meant.

    Args:
        text: the quantity.
        flag: the option that gave it, for messages.

    Raises:
        ConfigError: the text is not a size.
    """
    match = _QUANTITY.fullmatch(text)
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in _UNITS:
        hint = nearest(unit, ["MB", "GB", "TB", "MiB", "GiB", "TiB"]) if match else "a number and a unit, such as 80GB"
        raise ConfigError(f"{flag}: {text!r} is not a size; {hint}")
    value = float(match.group(1)) * _UNITS[unit]
    if not 0 < value < math.inf:
        raise ConfigError(f"{flag} must be positive and finite, got {text!r}")
    return value
