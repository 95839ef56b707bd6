"""Stores the training state of a run: weights and optimizer states of every parameter, one file (share) per rank.

A rank owns fragments: ranges of elements of flattened parameters. The fragments of all ranks cover every parameter
exactly once. A state written by any number of ranks under any ZeRO stage can therefore be read by any other number
under any other stage: a reader requests a range of elements, which is collected from the files that hold it. Files are
safetensors, never pickle.
"""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from unimol_scale.checkpoints.safetensors_writer import FileEntry, TensorKind, write_safetensors
from unimol_scale.common.files import TEMPORARY_SUFFIX, commit_text, flush
from unimol_scale.errors import CheckpointError

# The states stored for an element: the fp32 master weight, AdamW's two moments or Muon's momentum and, if a run
# averages its weights, their mean.
WEIGHT, MOMENT, SQUARE, MOMENTUM, MEAN = "weight", "exp_avg", "exp_avg_sq", "momentum", "ema"
OPTIMIZER_KINDS = frozenset({MOMENT, SQUARE, MOMENTUM})

_NAME = re.compile(r"share-(\d{5,})-of-(\d{5,})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """A range of elements of one flattened parameter.

    Attributes:
        name: name of the parameter, as in ``named_parameters``.
        start: index of the first element.
        states: kind (``WEIGHT`` …) → values, fp32 [number of elements].
    """

    name: str
    start: int
    states: Mapping[str, Tensor]

    @property
    def stop(self) -> int:
        """Index after the last element."""
        return self.start + len(next(iter(self.states.values())))


def share_name(rank: int, world_size: int) -> str:
    """Return the name of a rank's share."""
    return f"share-{rank:05d}-of-{world_size:05d}.safetensors"


def write_share(folder: Path, rank: int, world_size: int, fragments: Sequence[Fragment]) -> FileEntry:
    """Write the share of a rank, flush it to disk, and then write a note with its size and hash beside it.

    A share is complete once its note exists. Equal fragments yield equal bytes. The states may be on any device; they
    are copied piece by piece.

    Args:
        folder: folder for all shares of one state; it is made.
        rank: rank that owns the share.
        world_size: number of shares.
        fragments: fragments of this rank.

    Returns:
        Size and hash of the share.

    Raises:
        OSError: the disk is full or fails; nothing of this share remains.
    """
    path = folder / share_name(rank, world_size)
    remove_share(folder, rank, world_size)  # the note of an earlier attempt must not be mistaken for this one's
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
    try:
        tensors = _keyed(fragments)
        kinds = {key: TensorKind(dtype=torch.float32, shape=tensor.shape) for key, tensor in tensors.items()}
        entry = write_safetensors(temporary, kinds, tensors.__getitem__)
        temporary.replace(path)
        flush(folder)
        commit_text(_note(path), json.dumps(asdict(entry)))
    except BaseException:
        temporary.unlink(missing_ok=True)
        remove_share(folder, rank, world_size)
        raise
    return entry


def remove_share(folder: Path, rank: int, world_size: int) -> None:
    """Delete the share of a rank if it exists; delete its note first."""
    path = folder / share_name(rank, world_size)
    _note(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def read_notes(folder: Path, world_size: int) -> dict[str, FileEntry]:
    """Return the size and hash of every share, by file name; only the notes are read.

    Raises:
        CheckpointError: the share of a rank is missing.
    """
    entries = {}
    for rank in range(world_size):
        path = folder / share_name(rank, world_size)
        try:
            entries[path.name] = FileEntry(**json.loads(_note(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"{folder}: the share of rank {rank} of {world_size} is not complete ({error}); "
                "all ranks must write to one file system"
            ) from error
    return entries


def _note(share: Path) -> Path:
    return share.with_suffix(".json")


def _keyed(fragments: Sequence[Fragment]) -> dict[str, Tensor]:
    """Return key in a share → tensor."""
    tensors: dict[str, Tensor] = {}
    for fragment in fragments:
        for kind in sorted(fragment.states):
            if not len(fragment.states[kind]):
                continue
            key = f"{fragment.name}/{fragment.start}/{kind}"
            assert key not in tensors, f"two fragments of one rank start at the same element: {key}"
            tensors[key] = fragment.states[kind]
    return tensors


@dataclass(frozen=True)
class _Run:
    """Elements ``start`` to ``stop`` of a parameter, and the share that holds them."""

    start: int
    stop: int
    share: Path


class ShareReader:
    """Reads the state in a folder of shares. Elements are read on demand from memory-mapped files.

    Hashes are not checked here: verify the checkpoint first.

    Args:
        folder: folder with the shares of all ranks.

    Attributes:
        kinds: the kinds of states that are stored (``WEIGHT`` …). Every parameter has all of them except the states of
            the optimizer that it does not use; see ``kinds_of``.
        sizes: parameter → number of elements, in the order of the first share.

    Raises:
        CheckpointError: a share is missing or is not a safetensors file, or a parameter is not covered exactly once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, Any] = {}
        self._runs: dict[tuple[str, str], list[_Run]] = {}
        for path in self._shares():
            self._index(path)
        self.kinds = frozenset(kind for _, kind in self._runs)
        self.sizes: dict[str, int] = {}
        for (name, kind), runs in self._runs.items():
            runs.sort(key=lambda run: run.start)
            self._check_cover(name, kind, runs)
            if self.sizes.setdefault(name, runs[-1].stop) != runs[-1].stop:
                raise CheckpointError(f"{folder}: the parameter {name!r} has kinds of different lengths")
        for name in self.sizes:
            for kind in sorted(self.kinds_of(muon=(name, MOMENTUM) in self._runs)):
                if (name, kind) not in self._runs:
                    raise CheckpointError(f"{folder}: the parameter {name!r} has no {kind!r}, unlike the others")

    def kinds_of(self, *, muon: bool) -> frozenset[str]:
        """Return the kinds of states of each parameter that Muon updates (``muon``), or that AdamW updates."""
        return self.kinds - ({MOMENT, SQUARE} if muon else {MOMENTUM})

    def elements(self, kind: str) -> int:
        """Return the number of elements for which a kind of state is stored."""
        return sum(self.sizes[name] for name, other in self._runs if other == kind)

    def read(self, name: str, kind: str, start: int, stop: int) -> Tensor:
        """Return elements of a flattened parameter, fp32 [stop - start]; do not modify them.

        Raises:
            CheckpointError: there is no such parameter or kind, or the parameter has fewer elements.
        """
        runs = self._runs.get((name, kind))
        if runs is None:
            raise CheckpointError(f"{self._folder} has no {kind!r} of a parameter {name!r}")
        if not 0 <= start <= stop <= runs[-1].stop:
            raise CheckpointError(
                f"{self._folder}: {name!r} has {runs[-1].stop} elements, but {start} to {stop} were requested"
            )
        parts: list[Tensor] = []
        for run in runs:
            first, last = max(start, run.start), min(stop, run.stop)
            if first < last:
                stored = self._files[run.share].get_slice(f"{name}/{run.start}/{kind}")
                parts.append(stored[first - run.start : last - run.start])
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else torch.empty(0)

    def full(self, name: str, kind: str, shape: Sequence[int]) -> Tensor:
        """Return a whole parameter, fp32 [*shape]; do not modify it.

        Raises:
            CheckpointError: the parameter is missing or has another number of elements.
        """
        count = 1
        for length in shape:
            count *= length
        if self.sizes.get(name, count) != count:
            raise CheckpointError(
                f"{self._folder}: {name!r} has {self.sizes[name]} elements, not {count} for the shape {tuple(shape)}"
            )
        return self.read(name, kind, 0, count).view(*shape)

    def weight(self, name: str, shape: Sequence[int], *, averaged: bool) -> Tensor:
        """Return the weights of a whole parameter, fp32 [*shape]; do not modify them.

        Args:
            name: name of the parameter.
            shape: shape of the parameter.
            averaged: return the running mean of the weights if the run keeps one, else the weights after the last step.

        Raises:
            CheckpointError: the parameter is missing or has another number of elements.
        """
        return self.full(name, MEAN if averaged and MEAN in self.kinds else WEIGHT, shape)

    def _shares(self) -> list[Path]:
        """Return the shares in the order of their ranks; raise an error if one is missing."""
        found = {p: match for p in sorted(self._folder.glob("share-*")) if (match := _NAME.fullmatch(p.name))}
        if not found:
            raise CheckpointError(f"{self._folder} has no shares")
        sizes = {int(match[2]) for match in found.values()}
        if len(sizes) > 1:
            raise CheckpointError(f"{self._folder} has shares of different saves: of {sorted(sizes)} ranks")
        (world_size,) = sizes
        lost = sorted(set(range(world_size)) - {int(match[1]) for match in found.values()})
        if lost:
            raise CheckpointError(f"{self._folder}: {share_name(lost[0], world_size)} is missing")
        return list(found)

    def _index(self, path: Path) -> None:
        try:
            file: Any = safe_open(path, framework="pt")
            self._files[path] = file
            for key in file.keys():  # noqa: SIM118
                stored = file.get_slice(key)
                name, start, kind = key.rsplit("/", 2)
                (length,) = stored.get_shape()
                if stored.get_dtype() != "F32":
                    raise ValueError(f"{key} is {stored.get_dtype()}, not F32")
                run = _Run(int(start), int(start) + length, path)
                self._runs.setdefault((name, kind), []).append(run)
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} is not a share of a checkpoint: {error}") from error

    def _check_cover(self, name: str, kind: str, runs: Sequence[_Run]) -> None:
        reached, before = 0, runs[0]
        for run in runs:
            if run.start > reached:
                raise CheckpointError(
                    f"{self._folder}: elements {reached} to {run.start - 1} of {kind!r} of {name!r} are in no share"
                )
            if run.start < reached:
                raise CheckpointError(
                    f"{self._folder}: elements {run.start} to {min(reached, run.stop) - 1} of {kind!r} of {name!r} are "
                    f"stored twice: in {before.share.name} and in {run.share.name}"
                )
            reached, before = run.stop, run
