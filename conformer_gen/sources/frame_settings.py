"""What a build is told of files of frames, elements with coordinates: the keys ``source.frames.*``."""

import dataclasses
from typing import Literal

from conformer_gen.sources.frame_units import STORE_UNITS, to_store
from unimol_scale.errors import ConfigError, nearest

# What a frame can have: numbers (elements), the quantities with units, the net charge, and what it is called.
FIELDS = ("numbers", *STORE_UNITS, "charge", "smiles", "name")
LARGEST_GROUP = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """How frames become molecules with conformers.

    Attributes:
        group: which frames, one after another and of the same elements, are conformers of one molecule: those of one
            "name", one "smiles", or one "graph" (the same atoms are neighbours); "none" makes a molecule of each. None:
            the first of the three that the frames have. A molecule that comes again later is a duplicate.
        most: frames of one molecule that are read, equally spaced where a file says how many there are; further ones
            are a row of their own, and thereby a duplicate.
        cell: of frames with a unit cell: "refuse" them, since their molecules may go on in the next cell, or "ignore"
            the cell.
        charge: net charge of every frame that has none of its own, where bonds are to be perceived; None: it is
            searched.
        origin: what made the geometry, for ``conformer_origin``: "dft" or "file" (anything else); None: as the source
            says.
        theory: level of theory, such as "wB97M-D3BJ/def2-TZVPPD", kept in the manifest; "": as the source says.
        provenance: where the files come from, such as a DOI, kept in the manifest.
        units: quantity → unit in the files, where it is not the source's usual one.
        fields: of what a frame can have → what it is called in the files, where it is not the source's usual name.
        keep: labels of atoms that go into the store: "forces", "charges".
    """

    group: Literal["name", "smiles", "graph", "none"] | None = None
    most: int = 500
    cell: Literal["refuse", "ignore"] = "refuse"
    charge: int | None = None
    origin: Literal["dft", "file"] | None = None
    theory: str = ""
    provenance: str = ""
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.most <= LARGEST_GROUP:
            raise ConfigError(f"source.frames.most must be 1 to {LARGEST_GROUP:,}, got {self.most}")
        for quantity, unit in self.units.items():
            if quantity not in STORE_UNITS:
                raise ConfigError(f"source.frames.units: unknown {quantity!r}; {nearest(quantity, STORE_UNITS)}")
            to_store(quantity, unit)
        for field in self.fields:
            if field not in FIELDS:
                raise ConfigError(f"source.frames.fields: unknown {field!r}; {nearest(field, FIELDS)}")
        if self.keep:
            from unimol_scale.store.schema import ATOM_LABELS  # here, because it loads NumPy, and help shall not wait

            for label in self.keep:
                if label not in ATOM_LABELS:
                    raise ConfigError(f"source.frames.keep: unknown {label!r}; {nearest(label, ATOM_LABELS)}")
        if len(set(self.keep)) < len(self.keep):
            raise ConfigError(f"source.frames.keep names a label twice: {', '.join(self.keep)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """What a source of frames says of its files, where ``FramesConfig`` says nothing else.

    Attributes:
        units: quantity → unit.
        fields: of what a frame can have → what it is called; what is not here, the files have not.
        theory: level of theory, "" where files of the format differ.
        origin: "dft" or "file".
    """

    units: dict[str, str]
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    theory: str = ""
    origin: Literal["dft", "file"] = "file"

    def resolved(self, config: FramesConfig) -> FramesConfig:
        """Return the settings with this format's in place of what is open."""
        return dataclasses.replace(
            config,
            units={**self.units, **config.units},
            fields={**self.fields, **config.fields},
            theory=config.theory or self.theory,
            origin=config.origin or self.origin,
        )
