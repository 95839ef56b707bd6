"""The settings ``source.frames.*`` for files of frames, that is elements with coordinates."""

import dataclasses
from typing import Literal

from conformer_gen.sources.frame_units import STORE_UNITS, to_store
from unimol_scale.errors import ConfigError, nearest

# What a frame can have: numbers (elements), the quantities with units, the net charge, and names.
FIELDS = ("numbers", *STORE_UNITS, "charge", "smiles", "name")
LARGEST_GROUP = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class FramesConfig:
    """How frames become molecules with conformers.

    Attributes:
        group: which consecutive frames with the same elements are conformers of one molecule: those with the same
            "name", the same "smiles", or the same "graph" (the same atoms are neighbours); "none" makes each frame a
            molecule. None: the first of the three that the frames have. A molecule that occurs again later is a
            duplicate.
        most: most frames read per molecule, evenly spaced if the file states their number; further frames form a row of
            their own, which becomes a duplicate.
        cell: what to do with frames that have a unit cell: "refuse" them, since their molecules may continue in the
            next cell, or "ignore" the cell.
        charge: net charge of frames that have none of their own, if bonds have to be perceived; None: it is searched
            for.
        origin: what made the geometry, for ``conformer_origin``: "dft" or "file" (anything else); None: as the source
            states.
        theory: level of theory, such as "wB97M-D3BJ/def2-TZVPPD", recorded in the manifest; "": as the source states.
        provenance: where the files come from, such as a DOI, recorded in the manifest.
        units: quantity → unit in the files, if it is not the source's usual one.
        fields: property of a frame → its name in the files, if it is not the source's usual one.
        keep: atom labels to put into the store: "forces", "charges".
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
            # Here, because it loads NumPy, which would slow down help.
            from unimol_scale.store.schema import ATOM_LABELS

            for label in self.keep:
                if label not in ATOM_LABELS:
                    raise ConfigError(f"source.frames.keep: unknown {label!r}; {nearest(label, ATOM_LABELS)}")
        if len(set(self.keep)) < len(self.keep):
            raise ConfigError(f"source.frames.keep names a label twice: {', '.join(self.keep)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameFormat:
    """Defaults that a source of frames sets for its files, unless ``FramesConfig`` overrides them.

    Attributes:
        units: quantity → unit.
        fields: property of a frame → its name; properties that are not listed do not occur in the files.
        theory: level of theory, "" if it differs between files of the format.
        origin: "dft" or "file".
    """

    units: dict[str, str]
    fields: dict[str, str] = dataclasses.field(default_factory=dict)
    theory: str = ""
    origin: Literal["dft", "file"] = "file"

    def resolved(self, config: FramesConfig) -> FramesConfig:
        """Return the settings with open values filled in from this format."""
        return dataclasses.replace(
            config,
            units={**self.units, **config.units},
            fields={**self.fields, **config.fields},
            theory=config.theory or self.theory,
            origin=config.origin or self.origin,
        )
