"""Compiles the C kernels of this folder once a machine, loads them, and says where they may stand in for torch's.

Compiled where they run, because they gain from the widest vectors that the processor has, and kept in the user's cache
under a name that says what they were made from. Without a compiler everything is computed by torch.
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
# No -ffast-math: it would drop infinities and not-a-number, which the engine looks for.
_FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_CPU_INFO = Path("/proc/cpuinfo")
_SECONDS = 120
_READABLE = (torch.float32, torch.int32, torch.int16, torch.uint8, torch.bool)
# "torch" computes everything with torch.
SWITCH = "UNIMOL_SCALE_KERNELS"
# The widest rows of pairs, and of nodes, for which the kernels were faster than torch [measured].
MAX_WIDTH = 192
MAX_NODE_WIDTH = 768
_lock = threading.Lock()
_off = False


def suits(*tensors: Tensor) -> bool:
    """Return whether the kernels compute this: fp32 on one CPU thread, rows that are not wide, and a compiler here."""
    return _suits(tensors, MAX_WIDTH)


def suits_nodes(*tensors: Tensor) -> bool:
    """Return the same of what has one row a node: products of larger matrices."""
    return _suits(tensors, MAX_NODE_WIDTH)


def _suits(tensors: Sequence[Tensor], widest: int) -> bool:
    return (
        all(x.dtype == torch.float32 and x.shape[-1] <= widest and x.device.type == "cpu" for x in tensors)
        and not _off
        and torch.get_num_threads() == 1
        and _library() is not None
    )


def call(name: str, sizes: Sequence[int], tensors: Sequence[Tensor]) -> None:
    """Call a kernel; it holds no lock of the interpreter meanwhile.

    Args:
        name: of the C function.
        sizes: its numbers.
        tensors: its tensors, contiguous, on the CPU, fp32 or such integers as it expects; those it writes are the last.
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


def _library() -> ctypes.CDLL | None:
    with _lock:
        return _load()


@functools.cache
def _load() -> ctypes.CDLL | None:
    if os.environ.get(SWITCH, "").lower() == "torch":
        return None
    compiler = os.environ.get("CC") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        _log.warning("no C compiler (cc, gcc or clang) is here: training on this CPU takes longer than it could")
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        _log.warning(f"{compiler} did not compile the CPU kernels, and torch computes instead, more slowly: {said}")
        return None


def _compiled(compiler: str) -> Path:
    """Return the library, compiled unless that was done before."""
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
        made.replace(folder / name)  # at once: other ranks look for it too
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
    """Return whether nobody else can put code there."""
    state = folder.stat()
    return state.st_uid == os.getuid() and not state.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SECONDS)
    return done.stdout


def _processor() -> str:
    """Return what tells processors apart that need other code."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
