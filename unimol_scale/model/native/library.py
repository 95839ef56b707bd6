"""Compiles the C kernels of this folder once per machine, loads them, and decides where they replace torch's.

They are compiled on the machine that runs them, to use its widest vectors, and kept in the user's cache under a name
that identifies their source and flags. Without a compiler, torch computes everything.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

_log = logging.getLogger(__name__)
_SOURCES = Path(__file__).parent / "sources"
_COMPILERS = ("cc", "gcc", "clang")
# No -ffast-math: it would lose infinities and NaN, which the engine looks for.
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_CPU_INFO = Path("/proc/cpuinfo")
_SECONDS = 120
_READABLE = (torch.float32, torch.int32, torch.int16, torch.uint8, torch.bool)
# The value "torch" computes everything with torch.
SWITCH = "UNIMOL_SCALE_KERNELS"
# Widest rows of pairs, and of nodes, for which the kernels were faster than torch [measured].
MAX_WIDTH = 192
MAX_NODE_WIDTH = 768
_lock = threading.Lock()
_off = False


def suits(*tensors: Tensor) -> bool:
    """Return whether the kernels compute this: fp32 on one CPU thread, rows that are not too wide, and a compiler."""
    return _suits(tensors, MAX_WIDTH)


def suits_nodes(*tensors: Tensor) -> bool:
    """Return the same for tensors with one row per node, whose products have larger matrices."""
    return _suits(tensors, MAX_NODE_WIDTH)


def _suits(tensors: Sequence[Tensor], widest: int) -> bool:
    return (
        all(x.dtype == torch.float32 and x.shape[-1] <= widest and x.device.type == "cpu" for x in tensors)
        and not _off
        and torch.get_num_threads() == 1
        and _library() is not None
    )


def call(name: str, sizes: Sequence[int], tensors: Sequence[Tensor]) -> None:
    """Call a kernel; the interpreter's lock is released meanwhile.

    Args:
        name: name of the C function.
        sizes: its integer arguments.
        tensors: its tensors, contiguous, on the CPU, fp32 or the integer type that it expects; outputs come last.
    """
    library = _library()
    assert library is not None
    assert all(x.is_contiguous() and x.dtype in _READABLE for x in tensors), name
    pointers = (ctypes.c_void_p * len(tensors))(*[x.data_ptr() for x in tensors])
    getattr(library, name)((ctypes.c_long * len(sizes))(*sizes), pointers)


@contextlib.contextmanager
def torch_only() -> Iterator[None]:
    """Compute everything with torch, in every thread."""
    global _off
    before, _off = _off, True
    try:
        yield
    finally:
        _off = before


def load_kernels() -> None:
    """Compile and load the kernels now, so that processes that are started next find them without a message."""
    _library()


def _library() -> ctypes.CDLL | None:
    with _lock:
        return _load()


@functools.cache
def _load() -> ctypes.CDLL | None:
    if os.environ.get(SWITCH, "").lower() == "torch":
        return None
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        _log.warning("no C compiler (cc, gcc or clang) was found: training on this CPU will be slower than necessary")
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        _log.warning(f"{compiler} could not compile the CPU kernels, so torch is used instead, which is slower: {said}")
        return None


def _compiled(compiler: str) -> Path:
    """Return the path of the library, compiling it unless that was done before."""
    flags = (*_FLAGS, "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native")
    version = _run([compiler, "--version"])
    sources = sorted(path for path in _SOURCES.iterdir() if path.suffix in (".c", ".h"))
    made_from = [compiler, version, *flags, _processor(), *(path.read_text(encoding="utf-8") for path in sources)]
    name = f"kernels-{hashlib.sha256(chr(0).join(made_from).encode()).hexdigest()[:16]}.so"
    for folder in _folders():
        if (folder / name).exists() and _is_mine(folder):
            return folder / name
    writable = [folder for folder in _folders() if _is_writable(folder)]
    if not writable:
        raise OSError(f"none of {', '.join(map(str, _folders()))} is writable for this user alone")
    folder = writable[0]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / name
        _run([compiler, *flags, str(_SOURCES / "kernels.c"), "-o", str(made), "-lm"])
        made.replace(folder / name)  # atomically: other ranks look for it too
    return folder / name


def _folders() -> list[Path]:
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    return [Path(home) / "unimol-scale", Path(tempfile.gettempdir()) / f"unimol-scale-{os.getuid()}"]


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return _is_mine(folder) and os.access(folder, os.W_OK)


def _is_mine(folder: Path) -> bool:
    """Return whether nobody else can write code into this folder."""
    state = folder.stat()
    return state.st_uid == os.getuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    return done.stdout


def _processor() -> str:
    """Return a name that distinguishes processors that need different code."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
