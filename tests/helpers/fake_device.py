"""A made-up device, "gpu", that has shapes and no memory: operations that mix devices raise, waits for it are counted.

Tensors on it are torch's fake tensors. A value that the host asks for is made up: numbers are 1, counts 0, masks true
everywhere. Under DeepSpeed this process is rank 0 of two, whose collectives take tensors of the device only, as NCCL
does. All of this is global to the process, so it belongs into one of its own.
"""

import collections
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import NoReturn

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

REPOSITORY = Path(__file__).resolve().parents[2]
_setup_privateuseone_for_python_backend("gpu")
GPU = torch.device("gpu:0")
OURS = ("unimol_scale", "benchmarks", "launch", "conformer_gen")
WORLD_SIZE = 2
_COPIES = ("copy_", "_to_copy")
# Operations whose result has as many elements as the data says: the host waits to allocate it.
_SIZED_BY_DATA = ("nonzero", "masked_select", "_unique2", "unique_consecutive", "unique_dim", "repeat_interleave")
_INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put")


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of several devices, or a tensor of the wrong one."""


def site() -> str:
    """Return the project's frames that are running, innermost first, as "file:line < file:line"."""
    found: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(found) < 3:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(REPOSITORY) and path.relative_to(REPOSITORY).parts[0] in OURS:
            found.append(f"{path.relative_to(REPOSITORY)}:{frame.f_lineno}")
        frame = frame.f_back
    if found:
        return " < ".join(found)
    node = torch._C._current_autograd_node()
    return f"in the backward pass, {node.name()}" if node is not None else "in a library"


class Watch(TorchDispatchMode):
    """Raises where devices are mixed, and counts what makes the host wait for the device.

    Attributes:
        waits: "what at file:line" → how often.
        number: what a floating-point value is when the host asks for it.
        count: what an integer is then.
    """

    current: "Watch | None" = None

    def __init__(self) -> None:
        super().__init__()
        self.waits: collections.Counter[str] = collections.Counter()
        self.number = 1.0
        self.count = 0

    def wait(self, what: str) -> None:
        """Count a wait of the host for the device."""
        self.waits[f"{what} at {site()}"] += 1

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Under inference mode operations come whole.
        if torch.is_inference_mode_enabled() and func.namespace == "aten" and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        name = func._schema.name.split("::")[-1]
        tensors = _tensors((*args, *kwargs.values()))
        devices = {tensor.device.type for tensor in tensors}
        on_device = "gpu" in devices
        if name == "_local_scalar_dense" and isinstance(tensors[0], FakeTensor):
            if on_device:
                self.wait("a value is read")
            return self._made_up(tensors[0].dtype)
        if name == "equal" and isinstance(tensors[0], FakeTensor):
            if on_device:
                self.wait("tensors are compared")
            return True
        if on_device and "cpu" in devices and name not in _COPIES and any(t.dim() for t in tensors if _is_host(t)):
            raise MixedDevicesError(f"{name} of {', '.join(map(_described, tensors))} at {site()}")
        if on_device and name in _SIZED_BY_DATA:
            self.wait(name)
        if name in _INDEXING:
            args = (args[0], self._without_masks(args[1]), *args[2:])
        if name == "nonzero" and isinstance(tensors[0], FakeTensor):
            return torch.stack(_everywhere(tensors[0]), dim=1) if tensors[0].dim() else func(*args, **kwargs)
        result = func(*args, **kwargs)
        if name in _COPIES:
            self._account_copy(name, args, kwargs, result)
        return result

    def _made_up(self, dtype: torch.dtype) -> float | int | bool:
        if dtype == torch.bool:
            return False
        return self.number if dtype.is_floating_point else self.count

    def _without_masks(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Return indices where masks were: a mask that the host cannot read is true everywhere."""
        found: list[Tensor | None] = []
        for index in indices:
            if isinstance(index, FakeTensor) and index.dtype in (torch.bool, torch.uint8):
                if index.device.type == "gpu":
                    self.wait("a mask is an index")
                found += _everywhere(index)
            else:
                found.append(index)
        return found

    def _account_copy(self, name: str, args, kwargs, result: Tensor) -> None:
        source = args[1] if name == "copy_" else args[0]
        asynchronous = kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])
        crosses = {source.device.type, result.device.type} == {"cpu", "gpu"}
        if crosses and not asynchronous:
            where = "to the host" if source.device.type == "gpu" else "from the host"
            self.wait(f"a blocking copy {where}")


def _tensors(values) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def _is_host(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)} on {tensor.device.type}"


def _everywhere(mask: Tensor) -> list[Tensor]:
    """Return the indices of all elements."""
    return list(torch.ones(mask.shape, dtype=torch.long, device=mask.device).cumsum(0).flatten().expand(mask.dim(), -1))


@contextlib.contextmanager
def on_fake_device() -> Iterator[Watch]:
    """Make every tensor inside a fake one; real ones of the host may take part."""
    # One thread: an error in another one, of the backward pass, would end the process without a word.
    one_thread = torch.autograd.set_multithreading_enabled(False)
    with one_thread, FakeTensorMode(allow_non_fake_inputs=True), Watch() as watch:
        Watch.current = watch
        try:
            yield watch
        finally:
            Watch.current = None


def set_up_device() -> None:
    """Let tensors be made on the device, and let the host ask them for values; once in a process."""
    # What activation checkpointing asks a device for.
    torch.gpu.get_amp_supported_dtype = lambda: [torch.bfloat16]
    torch.gpu.device = lambda device: contextlib.nullcontext()
    torch.gpu.get_rng_state = lambda *args: torch.empty(16, dtype=torch.uint8)
    torch.gpu.set_rng_state = lambda state, *args: None
    make = torch.tensor

    def tensor(data, *args, device=None, **kwargs):
        made = make(data, *args, **kwargs)
        if device is None or torch.device(device).type == "cpu":
            return made
        Watch.current.wait("a blocking copy of Python numbers from the host")
        return torch.empty(made.shape, dtype=made.dtype, device=device)

    torch.tensor = tensor
    Tensor.new_tensor = lambda self, data, **how: tensor(data, **{"dtype": self.dtype, "device": self.device} | how)
    nn.Module._apply = _apply
    Tensor.record_stream = lambda self, stream: None
    _replace_method("numpy", lambda self: _as_array(self))
    _replace_method("tolist", lambda self: _as_list(self))


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Do what a module does for ``to`` and the like; torch itself would exchange fake tensors, which others hold."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    for parameter in module._parameters.values():
        if parameter is not None:
            with torch.no_grad():
                applied = fn(parameter)
            assert applied.device == parameter.device, "make it on the device: a fake tensor cannot be moved in place"
            parameter.data = applied
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = fn(buffer)
    return module


def _replace_method(name: str, fake: Callable[[Tensor], object]) -> None:
    real = getattr(Tensor, name)

    def method(self, *args, **kwargs):
        return fake(self) if isinstance(self, FakeTensor) else real(self, *args, **kwargs)

    setattr(Tensor, name, method)
    if name in vars(FakeTensor):
        setattr(FakeTensor, name, method)


def _as_array(tensor: Tensor) -> np.ndarray:
    if tensor.device.type == "gpu":
        raise MixedDevicesError(f"numpy() of {_described(tensor)} at {site()}; call cpu() first")
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype == "bfloat16":
        raise TypeError(f"numpy() of {_described(tensor)} at {site()}: NumPy has no bfloat16; call float() first")
    value = True if dtype == "bool" else Watch.current.number if tensor.dtype.is_floating_point else 0  # valid indices
    return np.full(tuple(tensor.shape), value, dtype=dtype)


def _as_list(tensor: Tensor) -> object:
    host = tensor
    if tensor.device.type == "gpu":
        host = tensor.cpu()  # counted there
    value: object = Watch.current._made_up(host.dtype)
    for length in reversed(host.shape):
        value = [value] * length
    return value


class _Event:
    def __init__(self, *args, **kwargs) -> None: ...

    def record(self, *args) -> None: ...

    def query(self) -> bool:
        return True

    def wait(self, *args) -> None: ...

    def elapsed_time(self, other) -> float:
        return 1.0

    def synchronize(self) -> None:
        Watch.current.wait("Event.synchronize")


class _Stream:
    def __init__(self, *args, **kwargs) -> None: ...

    def wait_stream(self, other) -> None: ...

    def wait_event(self, other) -> None: ...

    def record_event(self, event=None) -> _Event:
        return _Event()

    def synchronize(self) -> None:
        Watch.current.wait("Stream.synchronize")


class _Handle:
    """Of a collective; waiting for one makes the device's stream wait, not the host."""

    def wait(self, *args, **kwargs) -> None: ...

    def is_completed(self) -> bool:
        return True


def run_cases(cases: Mapping[str, Callable[[Watch], dict[str, int]]], output: Path) -> NoReturn:
    """Run every case, write what became of each as JSON, and end: its waits, or its error and where that came from."""
    results = {}
    for name, case in cases.items():
        begun, result = time.perf_counter(), {}
        try:
            with on_fake_device() as watch:
                result["waits"] = case(watch)
        except BaseException as error:  # every case is reported, assertions and exits included
            result["error"] = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
        result["seconds"] = time.perf_counter() - begun
        results[name] = result
    output.write_text(json.dumps(results))
    os._exit(0)


def set_up_ranks() -> None:
    """Be rank 0 of two, with collectives that do nothing but look at their tensors; before DeepSpeed is imported."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=WORLD_SIZE, store=FakeStore())
    for name in (
        "all_reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce", "reduce_scatter",
        "reduce_scatter_tensor", "all_to_all_single", "gather", "scatter",
    ):  # fmt: skip
        setattr(dist, name, _collective(name))
    dist.barrier = lambda *args, **kwargs: Watch.current and Watch.current.wait("barrier")
    dist.all_gather_object = _gather_object
    dist.broadcast_object_list = lambda *args, **kwargs: None
    dist.distributed_c10d._coalescing_manager = _coalescing


def _collective(name: str) -> Callable[..., _Handle]:
    def collective(*args, **kwargs) -> _Handle:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.device.type != "gpu":
                raise MixedDevicesError(f"{name} between ranks of {_described(tensor)} at {site()}")
        return _Handle()

    return collective


def _gather_object(gathered: list[object], value: object, *args, **kwargs) -> None:
    Watch.current.wait("all_gather_object")
    gathered[:] = [value] * len(gathered)


@contextlib.contextmanager
def _coalescing(*args, **kwargs) -> Iterator[_Handle]:
    yield _Handle()


class _Accelerator:
    """What DeepSpeed asks of a device; the rest is as on a CPU."""

    Event, Stream = _Event, _Stream

    def is_synchronized_device(self):
        return False

    def device_name(self, device_index=None):
        return "gpu" if device_index is None else "gpu:0"

    def device(self, device_index=None):
        return contextlib.nullcontext()

    def current_device(self):
        return 0

    def current_device_name(self):
        return "gpu:0"

    def device_count(self):
        return 1

    def stream(self, stream):
        return contextlib.nullcontext()

    def current_stream(self, device_index=None):
        return _Stream()

    default_stream = current_stream

    def synchronize(self, device_index=None):
        Watch.current.wait("synchronize")

    def on_accelerator(self, tensor):
        return tensor.device.type == "gpu"

    def memory_stats(self, device_index=None):
        return {}

    def memory_allocated(self, device_index=None):
        return 0

    max_memory_allocated = memory_allocated

    def pin_memory(self, tensor, *args, **kwargs):
        return tensor

    def ByteTensor(self, data):
        return torch.tensor(data, dtype=torch.uint8, device="gpu:0")

    def FloatTensor(self, data):
        return torch.tensor(data, dtype=torch.float32, device="gpu:0")


def set_up_accelerator() -> None:
    """Make the device the one that DeepSpeed computes on."""
    from deepspeed.accelerator import set_accelerator
    from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
    from deepspeed.runtime.zero import utils

    def of_rank_0(numbers):
        Watch.current.wait("numbers are compared with those of rank 0")
        return numbers

    utils.assert_lst_len_same_as_other_ranks = utils.get_lst_from_rank0 = of_rank_0

    set_accelerator(type("FakeAccelerator", (_Accelerator, CPU_Accelerator), {})())
