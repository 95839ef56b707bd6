"""Which molecules to read: the keys ``source.*`` of a build, or of one entry of its ``sources``."""

import dataclasses
from collections.abc import Callable
from typing import Literal

from conformer_gen.sources.frame_settings import FramesConfig
from conformer_gen.sources.registry import SOURCES
from conformer_gen.sources.source import Source
from unimol_scale.errors import ConfigError

ZINC20_URL = "http://files.docking.org/2D"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Which molecules to read.

    Attributes:
        name: kind of source: sample, zinc20, smiles, csv, parquet, sdf, pcqm4mv2, qm9, unimol-lmdb, xyz, ase-db, hdf5,
            geom, md17, pdb-ligands, mol2, or package.module:Name of one of your own; "sample" is the NCI set inside the
            RDKit wheel and needs no input.
        input: files, directories (searched recursively for the source's suffixes), tar archives, ``.uri`` lists and
            ``.wget`` or ``.curl`` scripts, http(s), s3 or gs URLs; for zinc20 also tranches such as CDAA or C[A-D]A?.
        limit: read at most this many rows, from the beginning; the first rows are rarely representative.
        sample: draw this many rows at random from all, by the seed of the build; every input is read to its end.
        smiles_column: name of the SMILES column, or its number from 1 in lines without a header (zinc20, smiles). None
            looks for the usual names, and uses the first column of lines without a header.
        id_column: the same for the identifier column; without one, rows are named after file and row.
        labels: columns (of csv and parquet), data fields (of sdf), targets (of unimol-lmdb) or properties of frames
            (xyz, ase-db, hdf5) that hold one number per molecule, and the unit of each.
        base_url: URL of zinc20's tranches; the file of tranche CDAA is <base_url>/CD/CDAA.smi.
        missing_ok: skip URLs that do not exist, since not every tranche does.
        geometry: for a source whose files have coordinates: "keep" them, or "make" conformers as for rows without any.
        frames: of xyz, ase-db, hdf5, geom, md17 and pdb-ligands: how frames become molecules with conformers.
    """

    name: str
    input: tuple[str, ...] = ()
    limit: int | None = None
    sample: int | None = None
    smiles_column: str | None = None
    id_column: str | None = None
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    base_url: str = ZINC20_URL
    missing_ok: bool = False
    geometry: Literal["keep", "make"] = "keep"
    frames: FramesConfig = dataclasses.field(default_factory=FramesConfig)

    def __post_init__(self) -> None:
        SOURCES.check(self.name, "source.name")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}")
        if self.sample is not None and self.sample < 1:
            raise ConfigError(f"sample must be at least 1, got {self.sample}")
        if self.limit is not None and self.sample is not None:
            raise ConfigError("limit takes the first rows, but sample draws from all: give only one of them")
        kind = self.kind
        if kind.bundled is not None and self.input:
            raise ConfigError(f"the source {self.name!r} has a file of its own and takes no --input")
        if kind.bundled is None and not self.input:
            raise ConfigError(f"the source {self.name!r} needs --input FILE_OR_DIR")
        if "://" not in self.base_url:
            raise ConfigError(f"base_url must be a URL such as {ZINC20_URL}, got {self.base_url!r}")
        if self.labels and not kind.takes_labels:
            names, has = _names(lambda entry: entry.takes_labels), "its own" if kind.labels else "none"
            raise ConfigError(f"labels can be chosen for {names}, not for {self.name!r}, which has {has}")
        if (self.smiles_column or self.id_column) and not kind.takes_columns:
            names = _names(lambda entry: entry.takes_columns)
            raise ConfigError(f"smiles_column and id_column are for {names}, not {self.name!r}")
        if self.geometry == "make" and not kind.has_geometry:
            raise ConfigError(f"geometry: the source {self.name!r} has no coordinates; its conformers are made anyway")
        if self.frames != FramesConfig() and kind.frames is None:
            names = _names(lambda entry: entry.frames is not None)
            raise ConfigError(f"frames is for {names}, not for {self.name!r}")

    @property
    def kind(self) -> Source:
        """The registry entry of the source. It imports a user's own code, so workers of a build must not ask for it."""
        return SOURCES.entry(self.name)

    @property
    def resolved_frames(self) -> FramesConfig | None:
        """How frames are read, with open values filled in from the format; None for other sources."""
        return self.kind.frames.resolved(self.frames) if self.kind.frames is not None else None

    @property
    def keeps_geometry(self) -> bool:
        """Whether coordinates of its files go into the store; rows may still lack them."""
        return self.kind.has_geometry and self.geometry == "keep"

    @property
    def may_lack_geometry(self) -> bool:
        """Whether coordinates may have to be made for some rows."""
        return self.kind.may_lack_geometry or self.geometry == "make"


def _names(fits: Callable[[Source], bool]) -> str:
    return ", ".join(name for name, entry in SOURCES.items() if fits(entry))
