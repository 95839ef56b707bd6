"""Compile every Triton kernel for a GPU that need not be there, and list what each takes of a multiprocessor.

    python -m benchmarks.gpu.compile_kernels --output benchmarks/results/gpu_kernels.md

What is compiled is what a micro-batch of the model starts, seen on meta tensors (kernel_counts.py), with everything
dropped that can be. Registers that do not suffice are spilled to memory, and the kernel is slow: the last column should
be zero.
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import as_started, deliver, module_parser
from benchmarks.gpu.kernel_counts import count_kernels
from unimol_scale.model.fused import launching
from unimol_scale.model.presets import DROPOUTS, preset

COMMAND = "python -m benchmarks.gpu.compile_kernels"
TYPES = {
    torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float16: "*fp16",
    torch.int64: "*i64", torch.int16: "*i16", torch.uint8: "*u8", torch.bool: "*i1",
}  # fmt: skip
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
HOPPER = 90
# Pointers are multiples of so many bytes.
ALIGNMENT = 16
Launch = tuple[str, tuple[Any, ...], dict[str, Any]]


def started_kernels(size: str, atoms: int, dtype: torch.dtype) -> list[Launch]:
    """Return name, arguments and constants of the kernels that a model of one layer starts, each kind once."""
    found: dict[str, Launch] = {}

    def see(name: str, arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        types = [_type_of(argument) for argument in arguments]
        found.setdefault(str((name, types, sorted(constants.items()))), (name, arguments, constants))

    config = preset(size, layers=1, **dict.fromkeys(DROPOUTS, 0.1))
    with launching.launches_seen_by(see):
        count_kernels(config, 2, atoms, fused=True, dtype=dtype)
    return list(found.values())


def _type_of(argument: Any) -> str:  # noqa: ANN401
    if isinstance(argument, Tensor):
        return TYPES[argument.dtype]
    return "fp32" if isinstance(argument, float) else "i32"


def compile_kernel(name: str, arguments: Sequence[Any], constants: dict[str, Any]) -> Any:  # noqa: ANN401
    """Return the compiled kernel."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    function = launching.kernel_named(name)
    sizes = {key: value for key, value in constants.items() if key in function.arg_names}
    options = {key: value for key, value in constants.items() if key not in sizes}
    signature = dict(zip(function.arg_names, map(_type_of, arguments), strict=False))
    signature |= dict.fromkeys(sizes, "constexpr")
    pointers = [at for at, argument in enumerate(arguments) if isinstance(argument, Tensor)]
    aligned = {(at,): [["tt.divisibility", ALIGNMENT]] for at in pointers}
    source = ASTSource(function, signature, sizes, aligned)
    return compile(source, target=GPUTarget("cuda", HOPPER, 32), options=options)


def resources(compiled: Any) -> tuple[int, int, int]:  # noqa: ANN401
    """Return registers a thread, bytes of shared memory, and bytes a thread that are spilled."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
    text = said.stdout + said.stderr
    registers, stack = (int(re.search(rf"{word}:(\d+)", text)[1]) for word in ("REG", "STACK"))  # type: ignore[index]
    return registers, compiled.metadata.shared, stack


def table(size: str, atoms: int, precision: str) -> list[str]:
    """Return what the kernels take, as lines of Markdown; of kinds with the same name the ones that take most."""
    found: dict[str, tuple[int, int, int]] = {}
    for name, given, constants in started_kernels(size, atoms, DTYPES[precision]):
        taken = resources(compile_kernel(name, given, constants))
        found[name] = tuple(map(max, taken, found.get(name, taken)))  # type: ignore[assignment]
    rows = [("kernel", "registers a thread", "bytes of shared memory", "spilled bytes a thread"), ("---",) * 4]
    cells = [*rows, *((name, *map(str, taken)) for name, taken in sorted(found.items()))]
    return ["", f"## {size}, {precision}, {atoms} atoms", "", *(f"| {' | '.join(row)} |" for row in cells)]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = module_parser(COMMAND, __doc__ or "")
    parser.add_argument("--size", default="84M")
    parser.add_argument("--atoms", type=int, nargs="+", default=[25, 60], help="of a molecule")
    parser.add_argument("--precision", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--output", type=Path, help="Markdown file; default: the terminal")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile and list."""
    import triton

    options = build_parser().parse_args(arguments)
    lines = ["# Triton kernels, compiled for compute capability 9.0", ""]
    lines += ["**Compiled, never run on a GPU.** Dropout everywhere; forward and backward of one layer.", ""]
    lines.append(f"- Triton {triton.__version__}, `{as_started(COMMAND)}`")
    for precision in options.precision:
        for atoms in options.atoms:
            lines += table(options.size, atoms, precision)
    deliver("\n".join([*lines, ""]), options.output)


if __name__ == "__main__":
    main()
