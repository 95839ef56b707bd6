"""Reads pickles of arrays and plain containers without running anything that they name. Imports NumPy only.

A pickle is a program for a stack machine whose ``REDUCE`` opcode calls whatever the file names. This machine calls
nothing: the five names that NumPy uses to write arrays are tokens from which this file builds arrays itself. It
refuses every other name, and every opcode that creates objects of other classes. Opcodes are parsed by the standard
library's ``pickletools``.
"""

import dataclasses
import enum
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from unimol_scale.errors import StoreError

MAX_BYTES = 16 << 20  # one value; 1,000 conformers of 1,000 atoms in float32 take 12 MB
MAX_OPCODES = 1_000_000
NUMBER_OR_TEXT = re.compile(r"(b1|[iu][1248]|f[248]|[SU]\d{1,4})")


class _Name(enum.Enum):
    RECONSTRUCT = enum.auto()
    NDARRAY = enum.auto()
    DTYPE = enum.auto()
    SCALAR = enum.auto()
    FROMBUFFER = enum.auto()


NAMES: dict[tuple[str, str], _Name] = {
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    **{  # NumPy 1, NumPy 2
        (f"numpy.{core}.{module}", name): token
        for core in ("core", "_core")
        for module, name, token in (
            ("multiarray", "_reconstruct", _Name.RECONSTRUCT),
            ("multiarray", "scalar", _Name.SCALAR),
            ("numeric", "_frombuffer", _Name.FROMBUFFER),
        )
    },
}


@dataclasses.dataclass
class _Dtype:
    """A dtype; its byte order arrives after its code."""

    code: str
    order: str = "="

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclasses.dataclass
class _UnfilledArray:
    """An array whose content arrives in a later ``BUILD``; ``memo`` is its slot in the machine's memo."""

    memo: list[int] = dataclasses.field(default_factory=list)


_MARK = object()
Array: TypeAlias = npt.NDArray[Any]
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
STRINGS = {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
BYTES = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
LITERALS = frozenset(NUMBERS | STRINGS | BYTES)
IGNORED = frozenset(["PROTO", "FRAME", "STOP"])


def loads(data: bytes) -> Any:  # noqa: ANN401
    """Return the content of a pickle: arrays of numbers or text, lists, tuples, dicts, strings, bytes, numbers, None.

    Raises:
        StoreError: the pickle is damaged, too large, or names anything else; the message gives the name.
    """
    if len(data) > MAX_BYTES:
        raise StoreError(f"its {len(data):,} bytes exceed the limit of {MAX_BYTES:,} for one value")
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise StoreError(f"it has more than {MAX_OPCODES:,} pickle opcodes")
            machine.step(opcode.name, argument)
        (result,) = machine.stack
    except StoreError:
        raise
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, UnicodeError) as error:
        raise StoreError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:100]})") from error
    return result


class _Machine:
    """The stack and memo of the pickle machine; a malformed program raises one of the errors that ``loads`` catches."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:  # noqa: ANN401
        """Run one opcode."""
        stack = self.stack
        if opcode in LITERALS:
            stack.append(argument)
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[int(argument)])
        elif opcode in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            self._remember(len(self._memo) if opcode == "MEMOIZE" else int(argument))
        elif opcode in CONSTANTS:
            stack.append(CONSTANTS[opcode]())
        elif opcode not in IGNORED:
            handler = HANDLERS.get(opcode)
            if handler is None:
                raise StoreError(f"its pickle uses the opcode {opcode}, which arrays and plain containers do not need")
            handler(self, argument)

    def _remember(self, place: int) -> None:
        self._memo[place] = top = self.stack[-1]
        if isinstance(top, _UnfilledArray):
            top.memo.append(place)

    def _to_mark(self) -> list[Any]:
        stack = self.stack
        at = next((place for place in reversed(range(len(stack))) if stack[place] is _MARK), None)
        if at is None:
            raise ValueError("no mark on the stack")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _tuple(self, size: int) -> None:
        items = [self.stack.pop() for _ in range(size)]
        self.stack.append(tuple(reversed(items)))

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError("items are added to something that is not a list")
        self.stack[-1].extend(items)

    def _update(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise ValueError("pairs are added to something that is not a dict")
        if not all(
            isinstance(key, str) for key in items[::2]
        ):  # string hashes are salted, so keys cannot be crafted to collide
            raise StoreError("a dict in it has a key that is not a string")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _dict(self) -> None:
        items = self._to_mark()
        self.stack.append({})
        self._update(items)

    def _name(self, module: object, name: object) -> None:
        token = NAMES.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
        if token is None:
            raise StoreError(f"its pickle names {module!s:.100}.{name!s:.100}, which is not allowed; nothing was run")
        self.stack.append(token)

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function is _Name.DTYPE:
            self.stack.append(_Dtype(_dtype_code(arguments[0])))
        elif function is _Name.RECONSTRUCT and arguments[0] is _Name.NDARRAY:
            self.stack.append(_UnfilledArray())
        elif function is _Name.FROMBUFFER:
            data, dtype, shape, order = arguments
            self.stack.append(_array(data, dtype, shape, order == "F"))
        elif function is _Name.SCALAR:
            dtype, data = arguments
            self.stack.append(_array(data, dtype, (1,), False)[0].item())
        else:
            raise StoreError("its pickle calls something other than an array constructor; nothing was run")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            target.order = {"<": "<", ">": ">", "|": "|", "=": "="}[state[1]]
        elif isinstance(target, _UnfilledArray):
            _, shape, dtype, fortran, data = state
            self.stack[-1] = filled = _array(data, dtype, shape, bool(fortran))
            self._memo.update(dict.fromkeys(target.memo, filled))
        else:
            raise StoreError("its pickle sets the state of something that is not an array")


def _dtype_code(code: object) -> str:
    if not isinstance(code, str) or not NUMBER_OR_TEXT.fullmatch(code):
        raise StoreError(f"it holds an array of dtype {code!s:.100}; only numbers and text are allowed")
    return code


def _array(data: object, dtype: object, shape: object, fortran: bool) -> Array:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
        raise StoreError("it holds an array that is not made of bytes, a dtype and a shape")
    kind = dtype.numpy()
    if min(shape, default=0) < 0 or math.prod(shape) * kind.itemsize != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")


HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "LIST": lambda machine, _: machine.stack.append(machine._to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._to_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "DICT": lambda machine, _: machine._dict(),
    "APPEND": lambda machine, _: machine._extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine._extend(machine._to_mark()),
    "SETITEM": lambda machine, _: machine._update([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine._update(machine._to_mark()),
    "GLOBAL": lambda machine, text: machine._name(*text.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._name(*[machine.stack.pop(), machine.stack.pop()][::-1]),
    "REDUCE": lambda machine, _: machine._reduce(),
    "BUILD": lambda machine, _: machine._build(),
}
