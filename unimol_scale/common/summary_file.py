"""Reads and writes summary.json, what a run was when it ended: the one way for trainer, ladder, laws and fine-tuning.

A run writes it last. Its readers want different keys of it, and those that a reader does not want may be wrong.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from unimol_scale.common.run_files import SUMMARY_NAME, SUMMARY_SCHEMA_VERSION
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.errors import RunError

REMEDY = "delete it and start the run again to have it written anew"
FINISHED = "finished"
Value = TypeVar("Value")


class UnreadableRunError(RunError):
    """The files of one run are damaged; other runs can be used without it."""


@dataclass(frozen=True)
class Summary(Mapping[str, Any]):
    """What a summary says, or a group of keys in it.

    Attributes:
        path: of the file, for messages.
        tree: as it was read.
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
        """Return the value of a key that must be there.

        Raises:
            UnreadableRunError: it is missing or of another type.
        """
        if key not in self.tree:
            raise UnreadableRunError(f"{self.path} lacks the key {key!r}; {REMEDY}")
        value = self.tree[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise UnreadableRunError(f"{self.path}: {key!r} is {value!r}, not of type {kind.__name__}; {REMEDY}")
        return value

    def number(self, key: str) -> float:
        """Return the number of a key that must be there; it may not be finite.

        Raises:
            UnreadableRunError: it is missing or no number.
        """
        value = self.tree.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UnreadableRunError(f"{self.path}: {key!r} must be a number, not {value!r}; {REMEDY}")
        return float(value)

    def group(self, key: str) -> "Summary":
        """Return a group of keys that must be there.

        Raises:
            UnreadableRunError: it is missing or no group.
        """
        return Summary(self.path, self.value(key, dict))

    @property
    def is_finished(self) -> bool:
        """Whether the run came to the end of its steps."""
        return self.tree.get("status") == FINISHED

    @property
    def world_size(self) -> int:
        """Ranks of the run's last session; 1 where it does not say."""
        found = self.tree.get("world_size")
        return found if isinstance(found, int) else 1


def write_summary(folder: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Write the summary of a finished run into its folder and return it."""
    summary = {"schema_version": SUMMARY_SCHEMA_VERSION, "status": FINISHED, **tree}
    write_json(folder / SUMMARY_NAME, summary, indent=2)
    return summary


def read_summary(folder: Path) -> Summary:
    """Return the summary of a run.

    Raises:
        UnreadableRunError: it is missing or damaged.
    """
    path = folder / SUMMARY_NAME
    try:
        return Summary(path, read_json(path))
    except OSError as error:
        raise UnreadableRunError(f"{path} cannot be read: {error.strerror}") from error
    except NotJsonError as error:
        raise UnreadableRunError(f"{path} {error}; {REMEDY}") from error


def manifest_hash_of(folder: Path) -> str | None:
    """Return the hash of the manifest of the store that a run was trained on; None where its summary does not say."""
    try:
        known = read_summary(folder).get("data_manifest_sha256")
    except UnreadableRunError:  # unfinished, or damaged, which is told by whoever needs more of it
        return None
    return str(known) if known else None
