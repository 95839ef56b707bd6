"""The settings of curation and of conformers. Imports no RDKit."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import unimol_scale.config as strict
from unimol_scale.common.trees import Tree
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import COORDINATE_SCALE, PLANAR_SCALE

# The settings that have always been in the hashes which name caches of conformers, and those of curation.
_FIRST_SETTINGS = (
    *("count", "hydrogens", "attempts", "timeout_s", "max_iterations", "stereo"),
    *("energy_window", "rmsd_prune", "engine", "gpus"),
)
_FIRST_CURATION = (
    *("max_atoms", "fragments", "radicals", "isotopes", "exclude", "exclude_by"),
    *("split", "valid_fraction", "target", "temperature"),
)

VALID_FRACTION = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class CurateConfig:
    """What is kept and how it is split.

    Attributes:
        max_atoms: heavy atoms; larger molecules are rejected, since a pair track costs their square and conformers of
            large ones take minutes. None: 128, and 256 for rows that bring their own geometry.
        fragments: of a row with several, such as a salt: take the "largest", or "reject" the row.
        radicals: "reject" neutral molecules with unpaired electrons, most of which are SMILES with a hydrogen
            forgotten, such as C[S](=O)=O; or "keep" them. Always kept: radical ions; metals, whose count of unpaired
            electrons means little; and rows that bring their own geometry, which needs no valences.
        isotopes: "keep" mass numbers: a labelled compound is another molecule than the plain one, with its own labels,
            and deuterium stays an atom of the record. Or "remove" them. Models see elements only: the deuterium as a
            hydrogen, ¹³C as carbon.
        exclude: files (SMILES, CSV, Parquet or SDF) of molecules that must not enter the store, such as benchmarks.
        exclude_by: what an excluded molecule takes with it: the same "molecule" whatever its stereo, isotopes and
            charges; all with its Murcko "scaffold", if it has rings; or "both".
        split: "scaffold" puts all molecules of a Murcko scaffold on one side; "random" looks at each molecule.
        valid_fraction: of the distinct molecules that goes to validation, 0 to 0.5.
        valid_count: instead of a fraction, the number of molecules for validation, at most half of all. With split
            "random" the store has exactly so many: others take the place of those that get no conformer. With split
            "scaffold" whole scaffolds are taken while they fit: there are never more, and mostly fewer.
        target: molecules to draw from the distinct ones; None, or no fewer than there are, keeps all.
        temperature: τ of P_scaffold = softmax(P_i / τ), P_i the share of the molecules that have scaffold i, by which
            they are drawn (Uni-Mol2: 0.005): small favours large scaffolds, large makes all scaffolds alike.
    """

    max_atoms: int | None = None
    fragments: Literal["largest", "reject"] = "largest"
    radicals: Literal["reject", "keep"] = "reject"
    isotopes: Literal["keep", "remove"] = "keep"
    exclude: tuple[Path, ...] = ()
    exclude_by: Literal["molecule", "scaffold", "both"] = "molecule"
    split: Literal["scaffold", "random"] = "scaffold"
    valid_fraction: float = VALID_FRACTION
    valid_count: int | None = None
    target: int | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        if self.max_atoms is not None and not 1 <= self.max_atoms <= 1000:
            raise ConfigError(f"max_atoms must be 1 to 1000, got {self.max_atoms}")
        if not 0.0 <= self.valid_fraction <= 0.5:
            raise ConfigError(f"valid_fraction must be 0 to 0.5, got {self.valid_fraction}")
        if self.valid_count is not None and self.valid_count < 1:
            raise ConfigError(f"valid_count must be at least 1, got {self.valid_count}; valid_fraction 0 is for none")
        if self.valid_count is not None and self.valid_fraction != VALID_FRACTION:
            raise ConfigError("curate.valid_count and curate.valid_fraction are two ways to say the same: give one")
        if (self.target is None) != (self.temperature is None):
            raise ConfigError("curate.target and curate.temperature need each other: give both, or neither")
        if self.target is not None and self.target < 1:
            raise ConfigError(f"target must be at least 1, got {self.target}")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0 and finite, got {self.temperature}")

    def identity(self) -> Tree:
        """Return the settings whose hash names sets of a cache: what was added later and is not used is out."""
        return strict.identifying(self, _FIRST_CURATION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """How coordinates are made.

    Attributes:
        count: conformers wanted for each molecule; a molecule that yields fewer, but at least one, is kept.
        hydrogens: keep hydrogens as atoms of the record.
        attempts: of ETKDG for each conformer, from each kind of start. Every molecule of the NCI sample and of 800 from
            ZINC20 that gets a conformer at all needs 8 or fewer; a count stops hopeless ones (2 % of ZINC20, mostly
            impossible stereo of bridged rings) at the same point on every machine; 64 spent half of a build on them.
        timeout_s: seconds for ETKDG from one kind of start, for what a count does not stop; as long again for all
            further starts of a molecule whose atoms clash.
        max_iterations: of the force field; 200, RDKit's default, leaves most drug-sized molecules unconverged.
        stereo: "drop" leaves out conformers whose stereo is not what the SMILES gives, since their features would be
            another molecule's; it costs nothing (none of 3,846 conformers of the NCI set, ZINC20, ChEMBL, inorganics
            and macrocycles was). "keep" flags them. Geometry from a file is flagged, never dropped: there it happens
            (4 of 1,999 DFT geometries of PCQM4Mv2, double bonds in rings of 8 and more).
        energy_window: kcal/mol; conformers further above the molecule's lowest one are left out. None keeps all.
        rmsd_prune: Å; a conformer this near to one of lower energy is left out. None keeps all.
        from_file: of a molecule whose source has conformers, keep at most so many: those of lowest energy that the two
            settings above leave, lowest first. None keeps all, in the order of the file, whatever those say.
        engine: "rdkit" on CPUs, or "nvmolkit" on NVIDIA GPUs (see ``nvmolkit_engine``). "depiction" makes no conformer:
            the 2D depiction stands in as the one of each molecule, for models that read the 2D graph only.
        gpus: device numbers for nvmolkit; the pieces of a build take them in turn.
    """

    count: int = 1
    hydrogens: bool = False
    attempts: int = 16
    timeout_s: int = 30
    max_iterations: int = 2000
    stereo: Literal["keep", "drop"] = "drop"
    energy_window: float | None = None
    rmsd_prune: float | None = None
    from_file: int | None = None
    engine: Literal["rdkit", "nvmolkit", "depiction"] = "rdkit"
    gpus: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if not 1 <= self.count <= 255:
            raise ConfigError(f"conformers.count must be 1 to 255, got {self.count}")
        for name in ("attempts", "timeout_s", "max_iterations"):
            if getattr(self, name) < 1:
                raise ConfigError(f"conformers.{name} must be at least 1, got {getattr(self, name)}")
        if self.from_file is not None and not 1 <= self.from_file <= 255:
            raise ConfigError(f"conformers.from_file must be 1 to 255, or null for all, got {self.from_file}")
        for name in ("energy_window", "rmsd_prune"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"conformers.{name} must be greater than 0, or null for none, got {value}")
        if not self.gpus or min(self.gpus) < 0 or len(set(self.gpus)) < len(self.gpus):
            raise ConfigError(
                f"conformers.gpus must be distinct device numbers from 0, at least one, got {list(self.gpus)}"
            )
        if self.engine == "depiction" and self.count != 1:
            raise ConfigError(
                f"conformers.engine depiction makes one conformer a molecule, got conformers.count {self.count}"
            )

    @property
    def coordinate_scale(self) -> float:
        """Å per unit of the int16 coordinates that are made: a depiction draws long chains at full length."""
        return PLANAR_SCALE if self.engine == "depiction" else COORDINATE_SCALE

    @property
    def method(self) -> str:
        """How coordinates are made, in the words of manifests, which are compared when a build goes on."""
        return "2D depiction" if self.engine == "depiction" else "ETKDGv3, MMFF94, else UFF, else as embedded"

    def recipe(self) -> Tree:
        """Return every setting by the name that it has in manifests and in the recipes of caches.

        What is done with conformers of files is left out where that is nothing.
        """
        tree = _with_first_names(strict.to_tree(self))
        return {key: value for key, value in tree.items() if key != "from_file" or value is not None}

    def identity(self) -> Tree:
        """Return the settings whose hash names caches, by those names: what was added later and is not used is out."""
        return _with_first_names(strict.identifying(self, _FIRST_SETTINGS))


def _with_first_names(tree: Tree) -> Tree:
    return {"conformers" if key == "count" else key: value for key, value in tree.items()}
