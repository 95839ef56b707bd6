"""Arrays and plain containers come out of a pickle as they went in; anything else is named, refused and never run."""

import builtins
import contextlib
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unimol_scale.errors import StoreError
from unimol_scale.store import safe_pickle

ARRAYS = [
    np.arange(12, dtype=np.float32).reshape(4, 3),
    np.arange(12, dtype=np.float64).reshape(4, 3).T,
    np.asfortranarray(np.arange(12.0).reshape(4, 3)),
    np.arange(24, dtype=">i4").reshape(2, 3, 4)[:, ::2],
    np.zeros((0, 3), np.float32),
    np.array(["C", "Cl"]),
    np.array([True, False]),
    np.array(3, dtype=np.int64),
]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_arrays_come_out_as_they_went_in(array: np.ndarray, protocol: int) -> None:
    found = safe_pickle.loads(pickle.dumps({"a": [array, array], "b": array}, protocol))
    for copy in (*found["a"], found["b"]):
        assert copy.dtype == array.dtype
        np.testing.assert_array_equal(copy, array)


@pytest.mark.parametrize("old", [b"numpy.core.", b"numpy._core."])
def test_arrays_of_both_numpy_generations_are_read(old: bytes) -> None:
    # The name's length stands in one byte before it (SHORT_BINUNICODE), or the name ends with its line (GLOBAL).
    for protocol in (3, 4, 5):
        data = pickle.dumps([ARRAYS[0], np.float32(1.5)], protocol)
        for module in (b"multiarray", b"numeric"):
            for core in (b"numpy.core.", b"numpy._core."):
                now, then = core + module, old + module
                data = data.replace(bytes([len(now)]) + now, bytes([len(then)]) + then).replace(b"c" + now, b"c" + then)
        array, number = safe_pickle.loads(data)
        np.testing.assert_array_equal(array, ARRAYS[0])
        assert number == 1.5


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=60)
@given(value=plain, protocol=st.sampled_from([3, 4, 5]))
def test_plain_values_come_out_as_they_went_in(value: object, protocol: int) -> None:
    assert safe_pickle.loads(pickle.dumps(value, protocol)) == value


class Calls:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    ("function", "arguments", "named"),
    [
        (os.system, ("touch {mark}",), "system"),
        (builtins.eval, ("open('{mark}', 'w')",), "eval"),
        (builtins.exec, ("open('{mark}', 'w')",), "exec"),
        (builtins.getattr, ("", "join"), "getattr"),
        (subprocess.run, (["touch", "{mark}"],), "run"),
        (np.fromfile, ("/etc/hostname",), "fromfile"),
        (np.load, ("{mark}",), "load"),
        (np.zeros, (3,), "zeros"),
        (Path, ("{mark}",), "Path"),
        (bytearray, (10,), "bytearray"),
        (object, (), "object"),
    ],
)
def test_a_hostile_pickle_is_refused_and_does_not_run(
    tmp_path: Path, protocol: int, function: Callable[..., Any], arguments: tuple[Any, ...], named: str
) -> None:
    mark = str(tmp_path / "mark")
    filled = [
        [part.format(mark=mark) for part in argument]
        if isinstance(argument, list)
        else argument.format(mark=mark)
        if isinstance(argument, str)
        else argument
        for argument in arguments
    ]
    hostile = pickle.dumps({"atoms": ["C"], "coordinates": Calls(function, *filled)}, protocol)
    with pytest.raises(StoreError, match=rf"\.{named}|opcode"):
        safe_pickle.loads(hostile)
    assert not (tmp_path / "mark").exists()


class Thing:
    def __str__(self) -> str:  # names the test, in every process alike
        return "Thing"


@pytest.mark.parametrize(
    "value",
    [
        Thing(),
        {1, 2},
        1j,
        np.array([{"a": 1}], object),
        np.array([(1, 2.0)], "i4,f4"),
        np.datetime64("2024-01-01"),
        {1: 2},
    ],
    ids=str,
)
def test_values_beyond_arrays_and_plain_containers_are_refused(value: object) -> None:
    with pytest.raises(StoreError):
        safe_pickle.loads(pickle.dumps(value))


DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4\x89\x88tR"
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
FROMBUFFER = b"cnumpy.core.numeric\n_frombuffer\n"


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"\x80\x04cos\nsystem\n.", r"os\.system"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", r"os\.system"),
        (b"\x80\x04cnumpy\nndarray\n(tR.", "something other than an array constructor"),
        (b"\x80\x04" + RECONSTRUCT + b"(cnumpy\ndtype\n)tR.", "something other than an array constructor"),
        (b"\x80\x04cnumpy\nndarray\n}(X\x01\x00\x00\x00aK\x01ub.", "not an array"),
        (b"\x80\x04cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.", "dtype O"),
        (b"\x80\x04" + FROMBUFFER + b"(C\x04abcd" + DTYPE + b"(J\xff\xff\xff\x7ftX\x01\x00\x00\x00CtR.", "damaged"),
        (b"\x80\x04" + FROMBUFFER + b"(C\x04abcd" + DTYPE + b"(J\xff\xff\xff\xfftX\x01\x00\x00\x00CtR.", "damaged"),
        (b"\x80\x04(cos\nsystem\no.", "system"),
        (b"\x80\x04X\x02\x00\x00\x00ls(ios\nsystem\n.", "INST"),
        (b"\x80\x04)\x81.", "NEWOBJ"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x04Pid\n.", "PERSID"),
        (b"\x80\x05\x97.", "NEXT_BUFFER"),
        (b"\x80\x04]a.", "damaged"),
        (b"\x80\x04t.", "damaged"),
        (b"\x80\x04h\x05.", "damaged"),
        (b"\x80\x04]", "damaged"),
        (b"", "damaged"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00abc.", "damaged"),
        (b"not a pickle", "damaged"),
        (b"\x80\x04]]].", "damaged"),
    ],
)
def test_a_hand_made_program_is_refused(program: bytes, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        safe_pickle.loads(program)


def test_a_value_that_claims_or_has_too_much_is_refused_without_the_memory() -> None:
    memo_bomb = b"\x80\x04]r\xf0\xff\xff\xff."  # a C unpickler makes a memo of 2³² entries
    assert safe_pickle.loads(memo_bomb) == []
    with pytest.raises(StoreError, match="pickle opcodes"):
        safe_pickle.loads(b"\x80\x04" + b"]" * (safe_pickle.MAX_OPCODES + 1) + b".")
    with pytest.raises(StoreError, match="bytes exceed the limit"):
        safe_pickle.loads(bytes(safe_pickle.MAX_BYTES + 1))


@settings(max_examples=300)
@given(data=st.data())
def test_damage_never_gives_anything_but_a_store_error(data: st.DataObject) -> None:
    record = {"atoms": ["C", "H"], "coordinates": ARRAYS[:3], "smi": "C", "target": (1, 0.5)}
    content = bytearray(pickle.dumps(record, data.draw(st.sampled_from([2, 4, 5]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StoreError):
        safe_pickle.loads(bytes(content))
