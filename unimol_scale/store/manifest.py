"""The manifest of a store: what is in it, how it was made, and each shard's hash. Imports only the project.

``manifest.json`` is written last; a directory without it is an unfinished build.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from unimol_scale.config import Origin, build, to_tree
from unimol_scale.errors import ConfigError, NewerFileError, StoreError, version_problem
from unimol_scale.store.schema import ATOM_LABELS, ATOM_LABELS_VERSION, SCHEMA_VERSION, Layout

MANIFEST_NAME = "manifest.json"
BUILD_COMMAND = "unimol-scale build --source sample"

Backend = Literal["arrow", "lmdb"]
SplitName = Literal["train", "valid"]
SPLITS: tuple[SplitName, ...] = ("train", "valid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One shard file.

    Attributes:
        file: path relative to the store.
        rows: molecules.
        atoms: atoms of those molecules, each counted once however many conformers it has.
        conformers: conformers of those molecules.
        origins: name of a ``ConformerOrigin`` → number of conformers with it.
        stereo: name of a ``ConformerStereo`` → number of conformers with it.
        labelled: name of a label → number of molecules that have it.
        bytes: file size.
        sha256: hash of the file's bytes, hexadecimal.
    """

    file: str
    rows: int
    atoms: int
    conformers: int
    origins: Mapping[str, int]
    stereo: Mapping[str, int]
    labelled: Mapping[str, int]
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitEntry:
    """One split: its shards in order, and its size histogram (number of atoms as text → number of molecules)."""

    shards: tuple[ShardEntry, ...]
    size_histogram: Mapping[str, int]

    @property
    def rows(self) -> int:
        """Molecules in the split."""
        return sum(shard.rows for shard in self.shards)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """What happened to the rows of the source: read = stored + duplicates + failed + not_sampled.

    Attributes:
        read: rows of the source.
        stored: molecules in the store.
        duplicates: rows whose molecule had already been read.
        failed: rows without a valid molecule, rows with an excluded one, and molecules without a conformer.
        not_sampled: molecules left out by temperature sampling.
        conflicting: those duplicates that have a label which the stored molecule lacks or has with another value.
        conformers_left_out: conformers of the source that are not a plausible geometry of their molecule.
    """

    read: int
    stored: int
    duplicates: int
    failed: int
    not_sampled: int = 0
    conflicting: int = 0
    conformers_left_out: int = 0

    def __post_init__(self) -> None:
        if self.read != self.stored + self.duplicates + self.failed + self.not_sampled:
            raise ConfigError(
                f"counts do not add up: read must be stored + duplicates + failed + not_sampled in {self}"
            )

    @property
    def left_out(self) -> str:
        """What was read but not stored, in words."""
        sampling = f" + {self.not_sampled:,} not sampled" if self.not_sampled else ""
        conflicting = f" ({self.conflicting:,} with other labels)" if self.conflicting else ""
        conformers = f"; {self.conformers_left_out:,} conformers left out" if self.conformers_left_out else ""
        return f"{self.duplicates:,} duplicates{conflicting} + {self.failed:,} failed{sampling}{conformers}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceCounts:
    """What happened to the rows of one of several sources: read = stored + duplicates + failed + not_sampled.

    Attributes:
        read: rows of the source.
        stored: molecules in the store that come from this source.
        duplicates: rows whose molecule had already been read, from this source or an earlier one.
        failed: rows without a valid molecule, rows with an excluded one, and molecules without a conformer.
        not_sampled: molecules left out by temperature sampling.
    """

    read: int
    stored: int
    duplicates: int
    failed: int
    not_sampled: int

    def __post_init__(self) -> None:
        if self.read != self.stored + self.duplicates + self.failed + self.not_sampled:
            raise ConfigError(f"counts do not add up in {self}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The whole of ``manifest.json``.

    Attributes:
        schema_version: version of the columns on disk.
        backend: file format of the shards.
        coordinate_scale: Å per unit of the int16 coordinates; None when they are float32 Å.
        planar_scale: Å per unit of the int16 depiction.
        source: name of the source of the molecules, or "first + second" for several.
        seed: seed of the build.
        labels: name of each label column → its unit, in column order.
        hydrogens: whether the records contain hydrogens as atoms.
        conformer_recipe: how coordinates were made, parameter by parameter.
        parameters: every other parameter of the build.
        versions: of the libraries whose output depends on their version, such as RDKit.
        counts: what happened to the source's rows.
        splits: "train" and "valid".
        counts_by_source: for a store from several sources, tag of a source → what happened to its rows; molecule ids
            begin with these tags. Empty, and absent from the file, for one source.
        atom_labels: name of each atom label → its unit. Without atom labels the key is absent from the file and
            ``schema_version`` is ``SCHEMA_VERSION``; with them it is ``ATOM_LABELS_VERSION``.
    """

    backend: Backend
    coordinate_scale: float | None
    planar_scale: float
    source: str
    seed: int
    hydrogens: bool
    conformer_recipe: Mapping[str, Any]
    parameters: Mapping[str, Any]
    versions: Mapping[str, str]
    counts: Counts
    splits: Mapping[str, SplitEntry]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    counts_by_source: Mapping[str, SourceCounts] = dataclasses.field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    atom_labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        version = ATOM_LABELS_VERSION if self.atom_labels else SCHEMA_VERSION
        if self.schema_version != version:
            raise ConfigError(f"schema_version is {self.schema_version}, but the contents of this store need {version}")
        if unknown := [name for name in self.atom_labels if name not in ATOM_LABELS]:
            raise ConfigError(f"atom_labels: unknown labels {', '.join(unknown)}")

    @property
    def layout(self) -> Layout:
        """What the columns on disk depend on."""
        return Layout(self.coordinate_scale, tuple(self.labels), tuple(self.atom_labels))

    def to_json(self) -> str:
        """Return the text of ``manifest.json``; equal manifests give equal text."""
        tree = to_tree(self)
        for name in ("counts_by_source", "atom_labels"):
            if not tree[name]:
                del tree[name]
        return json.dumps(tree, indent=1, ensure_ascii=False) + "\n"

    @staticmethod
    def from_json(text: str, path: Path) -> "Manifest":
        """Read a manifest back.

        Args:
            text: what ``to_json`` returned.
            path: the file, named in errors.

        Raises:
            StoreError: the text is damaged, or was written by another version whose format this one cannot read.
        """
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise StoreError(f"{path} is damaged: {error}; rebuild the store") from error
        version = tree.get("schema_version") if isinstance(tree, dict) else None
        reads = SCHEMA_VERSION if version == SCHEMA_VERSION else ATOM_LABELS_VERSION
        if problem := version_problem(version, reads, "schema_version"):
            raise StoreError(f"{path}: {problem}")
        try:
            return build(Manifest, tree, Origin(name=str(path), recorded=True))
        except NewerFileError as error:
            raise StoreError(str(error)) from error
        except ConfigError as error:
            raise StoreError(f"{error}; the manifest is damaged, rebuild the store") from error


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Read the manifest of the store at ``path``; return it and its text.

    Raises:
        StoreError: there is no store, it is unfinished, or this version cannot read it.
    """
    if not path.is_dir():
        raise StoreError(f"no store at {path}; make one with: {BUILD_COMMAND}")
    file = path / MANIFEST_NAME
    if not file.is_file():
        raise StoreError(
            f"the store at {path} is unfinished (it has no {MANIFEST_NAME}); to resume its build, run the command that "
            f"began it again, or make a new store with: {BUILD_COMMAND}"
        )
    text = file.read_text(encoding="utf-8")
    return Manifest.from_json(text, file), text
