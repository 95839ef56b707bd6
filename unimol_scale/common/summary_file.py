"""Reads and writes summary.json, which describes a finished run, for the trainer, ladder, laws and fine-tuning.

A run writes it last. A reader checks only the keys that it needs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unimol_scale.common.run_files import SUMMARY_NAME, SUMMARY_SCHEMA_VERSION
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.errors import RunError

REMEDY = "delete it and run the same command again, which writes a new one"
FINISHED = "finished"
Value = TypeVar("Value")


class UnreadableRunError(RunError):
    """The files of one run are damaged; other runs can be used without it."""


@dataclass(frozen=True)
class Summary(Mapping[str, Any]):
    """The content of a summary, or of one group of keys in it.

    Attributes:
        path: the file, for messages.
        tree: its keys and values.
    """

    path: Path
    tree: Mapping[str, Any]

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        return self.tree[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tree)

    def __len__(self) -> int:
        return len(self.tree)

    def value(self, key: str, kind: type[Value]) -> Value:
        """Return the value of a required key.

        Raises:
            UnreadableRunError: the key is missing, or its value has another type.
        """
        if key not in self.tree:
            raise UnreadableRunError(f"{self.path} lacks the key {key!r}; {REMEDY}")
        value = self.tree[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UnreadableRunError(f"{self.path}: {key!r} is {value!r}, not of type {kind.__name__}; {REMEDY}")
        return value

    def number(self, key: str) -> float:
        """Return the number under a required key; it need not be finite.

        Raises:
            UnreadableRunError: the key is missing, or its value is not a number.
        """
        value = self.tree.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnreadableRunError(f"{self.path}: {key!r} must be a number, not {value!r}; {REMEDY}")
        return float(value)

    def group(self, key: str) -> "Summary":
        """Return a required group of keys.

        Raises:
            UnreadableRunError: the group is missing, or the value is not a group.
        """
        return Summary(self.path, self.value(key, dict))

    @property
    def is_finished(self) -> bool:
        """Whether the run completed all its steps."""
        return self.tree.get("status") == FINISHED

    @property
    def world_size(self) -> int:
        """Number of ranks in the run's last session; 1 if the summary does not say."""
        found = self.tree.get("world_size")
        return found if isinstance(found, int) else 1


def write_summary(folder: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Write the summary of a finished run into its folder and return it."""
    summary = {"schema_version": SUMMARY_SCHEMA_VERSION, "status": FINISHED, **tree}
    write_json(folder / SUMMARY_NAME, summary, indent=2)
    return summary


def read_summary(folder: Path) -> Summary:
    """Return the summary of a run folder.

    Raises:
        UnreadableRunError: the file is missing or damaged.
    """
    path = folder / SUMMARY_NAME
    try:
        return Summary(path, read_json(path))
    except OSError as error:
        raise UnreadableRunError(f"{path} cannot be read: {error.strerror}") from error
    except NotJsonError as error:
        raise UnreadableRunError(f"{path} {error}; {REMEDY}") from error


def manifest_hash_of(folder: Path) -> str | None:
    """Return the manifest hash of the store that a run was trained on; None if its summary does not say."""
    try:
        known = read_summary(folder).get("data_manifest_sha256")
    except UnreadableRunError:  # the run is unfinished, or the file is damaged; stricter readers report the damage
        return None
    return str(known) if known else None
