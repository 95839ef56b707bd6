"""The settings of curation and of conformers. Imports no RDKit."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import unimol_scale.config as strict
from unimol_scale.common.trees import Tree
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import COORDINATE_SCALE, PLANAR_SCALE

# Settings that are always part of the hashes that name conformer caches, then those of curation.
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
    """Which molecules are kept, and how they are split.

    Attributes:
        max_atoms: most heavy atoms of a molecule; larger ones are rejected, because memory for atom pairs grows with
            their square and conformers of large molecules take minutes. None: 128, or 256 for rows that bring their own
            geometry.
        fragments: what to do with a row of several fragments, such as a salt: keep the "largest", or "reject" the row.
        radicals: "reject" neutral molecules with unpaired electrons, most of which are SMILES with a missing hydrogen,
            such as C[S](=O)=O; or "keep" them. Three kinds are always kept: radical ions; metals, whose count of
            unpaired electrons means little; and rows with their own geometry, whose hydrogens are known.
        isotopes: "keep" mass numbers: a labelled compound is then a molecule of its own, with its own labels, and
            deuterium stays an atom of the record. Or "remove" them. Models see only elements: deuterium as hydrogen,
            ¹³C as carbon.
            hydrogen, ¹³C as carbon.
        exclude: files (SMILES, CSV, Parquet or SDF) of molecules that must not enter the store, such as benchmarks.
        exclude_by: what is excluded along with each such molecule: the same "molecule" with any stereo, isotopes and
            charges; every molecule with its Murcko "scaffold", if it has rings; or "both".
        split: "scaffold" puts all molecules of a Murcko scaffold into the same split; "random" assigns each molecule by
            itself.
        valid_fraction: share of the distinct molecules that goes to validation, 0 to 0.5.
        valid_count: number of molecules for validation instead of a fraction, at most half of all. With split "random"
            validation has exactly that many: molecules without a conformer are replaced. With split "scaffold" whole
            scaffolds are added while they fit, so validation never has more and usually has fewer.
        target: number of molecules to draw from the distinct ones. None, or at least as many as there are, keeps all.
        temperature: τ of P_scaffold = softmax(P_i / τ), by which molecules are drawn; P_i is the share of the molecules
            that have scaffold i (Uni-Mol2: 0.005). A small τ favours large scaffolds; a large one makes all scaffolds
            equally likely.
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
            raise ConfigError(
                f"valid_count must be at least 1, got {self.valid_count}; for no validation set valid_fraction to 0"
            )
        if self.valid_count is not None and self.valid_fraction != VALID_FRACTION:
            raise ConfigError("curate.valid_count and curate.valid_fraction exclude each other: give only one")
        if (self.target is None) != (self.temperature is None):
            raise ConfigError("curate.target and curate.temperature belong together: give both or neither")
        if self.target is not None and self.target < 1:
            raise ConfigError(f"target must be at least 1, got {self.target}")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0 and finite, got {self.temperature}")

    def identity(self) -> Tree:
        """Return the settings whose hash names a cache's sets; settings added later count only if they are used."""
        return strict.identifying(self, _FIRST_CURATION)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """How coordinates are made.

    Attributes:
        count: conformers to make for each molecule; a molecule that yields fewer, but at least one, is kept.
        hydrogens: keep hydrogens as atoms of the record.
        attempts: attempts of ETKDG per conformer, from each kind of start. Of the NCI sample and 800 molecules of
            ZINC20, every molecule that gets a conformer at all needs at most 8. A fixed number stops hopeless molecules
            (2 % of ZINC20, mostly impossible stereo of bridged rings) at the same point on every machine; with 64, they
            took half of the build time.
        timeout_s: seconds for ETKDG from one kind of start, as a backstop to ``attempts``; the same again for all
            further starts of a molecule whose atoms clash.
        max_iterations: iterations of the force field; RDKit's default of 200 leaves most drug-sized molecules
            unconverged.
        stereo: "drop" leaves out conformers whose stereo differs from the SMILES, since the record's features would be
            those of another molecule. This costs nothing: it affected none of 3,846 conformers of the NCI set, ZINC20,
            ChEMBL, inorganics and macrocycles. "keep" flags them. Geometry from a file is flagged, never dropped: there
            it does happen (4 of 1,999 DFT geometries of PCQM4Mv2, double bonds in rings of 8 and more).
        energy_window: kcal/mol; leave out conformers that are further above the molecule's lowest one. None keeps all.
        rmsd_prune: Å; leave out a conformer whose RMSD to one of lower energy is at most this. None keeps all.
        from_file: most conformers to keep of a molecule whose source has conformers. Those of lowest energy that pass
            ``energy_window`` and ``rmsd_prune`` are kept, lowest first. None keeps all, in the order of the file, and
            ignores these two settings.
        engine: "rdkit" on CPUs, or "nvmolkit" on NVIDIA GPUs (see ``nvmolkit_engine``). "depiction" makes no
            conformers: each molecule gets its 2D depiction instead, for models that read only the 2D graph.
        gpus: device numbers for nvmolkit; the pieces of a build use them in turn.
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
                f"conformers.engine depiction makes one conformer per molecule, got conformers.count {self.count}"
            )

    @property
    def coordinate_scale(self) -> float:
        """Å per unit of the int16 coordinates; coarser for depictions, which draw long chains at full length."""
        return PLANAR_SCALE if self.engine == "depiction" else COORDINATE_SCALE

    @property
    def method(self) -> str:
        """How coordinates are made, as manifests record it; a resumed build compares these words."""
        return "2D depiction" if self.engine == "depiction" else "ETKDGv3, MMFF94, else UFF, else as embedded"

    def recipe(self) -> Tree:
        """Return every setting under the name that manifests and cache recipes use.

        Settings for conformers from files are left out if they have no effect.
        """
        tree = _with_first_names(strict.to_tree(self))
        return {key: value for key, value in tree.items() if key != "from_file" or value is not None}

    def identity(self) -> Tree:
        """Return the settings, under these names, whose hash names caches; settings added later count only if used."""
        return _with_first_names(strict.identifying(self, _FIRST_SETTINGS))


def _with_first_names(tree: Tree) -> Tree:
    return {"conformers" if key == "count" else key: value for key, value in tree.items()}
