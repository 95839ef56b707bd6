"""The configuration of a build: every key of ``configs/build/*.yaml`` and of ``key=value``. Imports no RDKit."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import unimol_scale.config as strict
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.joint import joint_label_units, source_tags
from unimol_scale.common.machine.threads import usable_cores
from unimol_scale.common.trees import flatten
from unimol_scale.errors import ConfigError
from unimol_scale.store.manifest import Backend

# Command-line flag (with underscores) or argument of a call → the configuration key that it abbreviates.
SHORT_NAMES = {
    "source": "source.name",
    "input": "source.input",
    "limit": "source.limit",
    "sample": "source.sample",
    "conformers": "conformers.count",
    "hydrogens": "conformers.hydrogens",
    "engine": "conformers.engine",
    "exclude": "curate.exclude",
    "output": "output",
    "backend": "backend",
    "seed": "seed",
    "workers": "workers",
    "ray_address": "ray_address",
}
LARGEST_SEED = 2**63 - 1
SMALLEST_TASK_MEMORY = 100  # MiB; the libraries alone need some tens in a task


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """A whole build.

    Attributes:
        source: where molecules come from, for a single source.
        sources: several sources instead, each a group with the keys of ``source``. Their molecules form one set: a
            molecule that several sources have is taken from the first of them in this list, and sampling and split
            apply to all.
        curate: which molecules are kept and how they are split.
        conformers: how coordinates are made.
        output: directory of the store; None means data/<source>, or data/<source>-<source> for several.
        backend: file format of the shards.
        seed: seed of conformers and split.
        workers: processes of a local Ray; None means one per core that this process may use.
        ray_address: address of a running Ray cluster to use instead of a local one.
        task_size: rows of the source per task.
        shard_rows: molecules per shard.
        limit_s: seconds that a worker may spend on one molecule before it is killed.
        task_memory: MiB that a task may allocate. A task that needs more is stopped, and the molecule that caused it is
            searched for.
    """

    FORMER_NAMES: ClassVar[Mapping[str, str]] = {"embed": "conformers", "embed.conformers": "conformers.count"}

    source: SourceConfig | None = None
    sources: tuple[SourceConfig, ...] = ()
    curate: CurateConfig = dataclasses.field(default_factory=CurateConfig)
    conformers: ConformerConfig = dataclasses.field(default_factory=ConformerConfig)
    output: Path | None = None
    backend: Backend = "arrow"
    seed: int = 0
    workers: int | None = None
    ray_address: str | None = None
    task_size: int = 500
    shard_rows: int = 50_000
    limit_s: float = 180.0
    task_memory: int = 500

    def __post_init__(self) -> None:
        if (self.source is None) == (not self.sources):
            raise ConfigError("a build needs either source, such as source.name=sample, or a list of sources, not both")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ConfigError(f"seed must be 0 to 2^63 - 1, got {self.seed}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, got {self.workers}")
        if not 1 <= self.task_size <= 99_999:
            raise ConfigError(f"task_size must be 1 to 99,999, got {self.task_size}")
        if self.shard_rows < 1:
            raise ConfigError(f"shard_rows must be at least 1, got {self.shard_rows}")
        if self.task_memory < SMALLEST_TASK_MEMORY:
            raise ConfigError(f"task_memory must be at least {SMALLEST_TASK_MEMORY} (MiB), got {self.task_memory}")
        if self.limit_s <= 2 * self.conformers.timeout_s:
            raise ConfigError("limit_s must exceed twice conformers.timeout_s: raise it, or lower conformers.timeout_s")
        if self.conformers.count != 1 and not any(source.may_lack_geometry for source in self.each_source):
            names = " and ".join(repr(source.name) for source in self.each_source)
            keep = "source {} keeps the geometry of its" if self.source else "sources {} keep the geometry of their"
            raise ConfigError(
                f"the {keep.format(names)} files, so --conformers does not apply; conformers.from_file=K keeps the K "
                "lowest of theirs"
            )
        joint_label_units(self.each_source)

    @property
    def each_source(self) -> tuple[SourceConfig, ...]:
        """All sources, in the order in which they are read."""
        return self.sources if self.source is None else (self.source,)

    @property
    def directory(self) -> Path:
        """Directory of the store."""
        return self.output or Path("data") / "-".join(source_tags(self.each_source))

    @property
    def num_workers(self) -> int:
        """Number of worker processes of a local Ray."""
        return self.workers or usable_cores()

    @property
    def task_bytes(self) -> int:
        """``task_memory`` in bytes."""
        return self.task_memory * 2**20


def read_build_config(tree: Mapping[str, Any], origin: strict.Origin) -> BuildConfig:
    """Return the build configuration that the settings describe.

    Raises:
        ConfigError: a setting is unknown or wrong.
    """
    if tree.get("sources") and "source" in tree:
        keys = ", ".join(flatten({"source": tree["source"]})) or "source"
        raise ConfigError(
            f"{origin.describe('source')}: {keys} is for a build from one source, but this one has several; move it "
            "to the entry of sources that it is meant for"
        )
    return strict.build(BuildConfig, tree, origin)
