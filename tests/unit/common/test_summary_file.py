"""The summary of a run: what was written is read back, and what is wrong with it is said with its file and a remedy."""

import json
from pathlib import Path

import pytest

from unimol_scale.common.summary_file import UnreadableRunError, manifest_hash_of, read_summary, write_summary


def summary_with(folder: Path, text: str) -> Path:
    (folder / "summary.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    return folder


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = write_summary(tmp_path, {"name": "run", "steps": 7, "final": {"valid/loss": 0.5}, "world_size": 2})
    summary = read_summary(tmp_path)
    assert dict(summary) == written == json.loads((tmp_path / "summary.json").read_text())
    assert (summary.value("steps", int), summary.group("final").number("valid/loss")) == (7, 0.5)
    assert (summary.is_finished, summary.world_size) == (True, 2)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not JSON"),
        ('{"status": "fini', "is not JSON"),
        ("\udcff\udcfe", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must hold a JSON object, not a list"),
    ],
)
def test_a_damaged_summary_is_named_with_what_to_do(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(
        UnreadableRunError, match=rf"{tmp_path}/summary\.json {reason}.*delete it and run the same command"
    ):
        read_summary(summary_with(tmp_path, text))
    assert manifest_hash_of(tmp_path) is None


def test_a_run_that_has_not_ended_has_none(tmp_path: Path) -> None:
    with pytest.raises(UnreadableRunError, match="cannot be read: No such file"):
        read_summary(tmp_path)
    assert manifest_hash_of(tmp_path) is None


def test_only_the_keys_that_are_asked_for_must_be_right(tmp_path: Path) -> None:
    summary = read_summary(summary_with(tmp_path, '{"steps": true, "loss": "low", "data_manifest_sha256": "abc"}'))
    assert (summary.is_finished, summary.world_size, manifest_hash_of(tmp_path)) == (False, 1, "abc")
    with pytest.raises(UnreadableRunError, match="lacks the key 'name'"):
        summary.value("name", str)
    with pytest.raises(UnreadableRunError, match="'steps' is True, not of type int"):
        summary.value("steps", int)
    with pytest.raises(UnreadableRunError, match="'loss' must be a number, not 'low'"):
        summary.number("loss")
