"""Files of one JSON object: complete or absent, and with a reason where they hold none."""

import hashlib
import json
from pathlib import Path

import pytest

from unimol_scale.common.text.json_files import NotJsonError, hash_json, read_json, write_json

TREE = {"b": [1, 2.5], "a": {"µ": None}}


@pytest.mark.parametrize("indent", [None, 1, 2])
def test_what_was_written_is_read_back(tmp_path: Path, indent: int | None) -> None:
    write_json(tmp_path / "new" / "file.json", TREE, indent)
    assert read_json(tmp_path / "new" / "file.json") == TREE
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "^is not JSON: "),
        (b'{"a": 1', "^is not JSON: "),
        (b"\xff\xfe{}", "^is not JSON: "),
        (b"[" * 100_000, "^is not JSON: "),
        (b"[1]", "^must hold a JSON object, not a list$"),
        (b"null", "^must hold a JSON object, not a NoneType$"),
    ],
)
def test_what_holds_no_object_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(NotJsonError, match=reason):
        read_json(tmp_path / "file.json")
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "absent.json")


def test_a_hash_does_not_depend_on_the_order_of_keys() -> None:
    expected = hashlib.sha256(json.dumps(TREE, sort_keys=True).encode()).hexdigest()
    assert hash_json(TREE) == hash_json(dict(reversed(TREE.items()))) == expected
