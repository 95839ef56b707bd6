"""The leakage filter: molecules and scaffolds, such as those of benchmarks, that must not enter a store. Uses RDKit.

Molecules are compared without stereo, isotopes and charges. A benchmark molecule counts as known if the training set
has it as another stereoisomer, isotope or charge state, since databases disagree on these more than on anything else.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize

from conformer_gen.chemistry.canonical import ISOTOPE, without_isotopes
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, curate_molecule, scaffold_smiles
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.file_names import bare_suffix
from conformer_gen.sources.molecule import Rejected, SourceMolecule
from conformer_gen.sources.reader import read_source
from conformer_gen.sources.registry import SOURCES
from unimol_scale.common.files import hash_file
from unimol_scale.common.text.text_files import Unpacked
from unimol_scale.errors import SourceError

UInt64 = npt.NDArray[np.uint64]
# Source kinds that are recognised by a file's suffix.
SOURCE_OF_SUFFIX = {suffix: name for name in ("smiles", "csv", "parquet", "sdf") for suffix in SOURCES[name].suffixes}
# No limits: no benchmark molecule is too large or too odd to be excluded.
EVERY_MOLECULE = CurateConfig(max_atoms=1000, radicals="keep", isotopes="remove")
ROWS_SHOWN = 3
_log = logging.getLogger(__name__)
NO_HASHES = np.zeros(0, np.uint64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exclusions:
    """What is excluded: sorted hashes of flat uncharged molecules and of their scaffolds; either may be empty."""

    molecules: UInt64 = dataclasses.field(default_factory=NO_HASHES.copy)
    scaffolds: UInt64 = dataclasses.field(default_factory=NO_HASHES.copy)

    def check(self, curated: Curated | Rejected) -> Curated | Rejected:
        """Return the curated molecule, or why it is excluded. Never raises for chemistry errors."""
        if isinstance(curated, Rejected) or not (len(self.molecules) or len(self.scaffolds)):
            return curated
        try:
            flat = _flat_uncharged(curated.smiles)
        except (RuntimeError, ValueError) as error:  # undecidable, so it is left out to be safe
            return Rejected(reason="rdkit_error", detail=str(error).strip().split("\n")[0])
        if _contains(self.molecules, _molecule_hash(flat)):
            return Rejected(reason="excluded", detail="this molecule is in curate.exclude, up to stereo and charges")
        if _contains(self.scaffolds, _scaffold_hash(flat)):
            return Rejected(reason="excluded", detail="a molecule with this scaffold is in curate.exclude")
        return curated


NO_EXCLUSIONS = Exclusions()


def read_exclusions(config: CurateConfig) -> Exclusions:
    """Read the files of ``curate.exclude``.

    Rows whose SMILES RDKit cannot parse are skipped, since curation rejects them; their number is printed.

    Raises:
        SourceError: a file is missing, of unknown kind, partly unreadable, or holds no molecule.
    """
    molecules: set[int] = set()
    scaffolds: set[int] = set()
    for path in config.exclude:
        found = _hashes(path)
        molecules.update(molecule for molecule, _ in found)
        scaffolds.update(scaffold for _, scaffold in found if scaffold is not None)
    return Exclusions(
        molecules=_sorted(molecules if config.exclude_by in ("molecule", "both") else ()),
        scaffolds=_sorted(scaffolds if config.exclude_by in ("scaffold", "both") else ()),
    )


def describe_files(config: CurateConfig) -> list[str]:
    """Return name, size and hash of every file of ``curate.exclude``, as the store records them, without paths.

    Raises:
        SourceError: a file is missing.
    """
    described = []
    for path in config.exclude:
        if not path.is_file():
            raise SourceError(f"--exclude {path} is not a file")
        described.append(f"{path.name} ({path.stat().st_size} bytes, sha256 {hash_file(path)})")
    return described


def _hashes(path: Path) -> list[tuple[int, int | None]]:
    suffix = bare_suffix(path.name)
    if suffix not in SOURCE_OF_SUFFIX:
        with path.open("rb") as file:
            Unpacked(f"--exclude {path}", file)  # raises a clear error for a workbook or an archive
        raise SourceError(f"--exclude {path}: its name must end in {', '.join(SOURCE_OF_SUFFIX)}, plain or compressed")
    found: list[tuple[int, int | None]] = []
    passed_over: list[str] = []
    for row in read_source(SourceConfig(name=SOURCE_OF_SUFFIX[suffix], input=(str(path),))):
        if row.problem:  # its molecule is unknown, so it could not be excluded
            raise SourceError(f"--exclude {path} cannot be read as a whole: {row.id}: {row.problem}")
        hashes = _hashes_of(row)
        if hashes is None:
            passed_over.append(f"{row.id} ({row.smiles!r})")
        else:
            found.append(hashes)
    if not found:
        raise SourceError(f"--exclude {path} holds no molecule that RDKit can read")
    if passed_over:
        shown = ", ".join(passed_over[:ROWS_SHOWN]) + (", …" if len(passed_over) > ROWS_SHOWN else "")
        _log.warning(
            f"--exclude {path}: RDKit cannot read {len(passed_over):,} of {len(found) + len(passed_over):,} rows, "
            f"which therefore exclude nothing: {shown}"
        )
    return found


def _hashes_of(row: SourceMolecule) -> tuple[int, int | None] | None:
    # Only the graph matters, so coordinates of a file are not read.
    curated = curate_molecule(dataclasses.replace(row, geometry=None, origin=None), EVERY_MOLECULE)
    if isinstance(curated, Curated):
        with contextlib.suppress(RuntimeError, ValueError), rdBase.BlockLogs():
            flat = _flat_uncharged(curated.smiles)
            return _molecule_hash(flat), _scaffold_hash(flat)
    return None


def _flat_uncharged(smiles: str) -> Chem.Mol:
    molecule = Chem.MolFromSmiles(smiles)
    if ISOTOPE.search(smiles):
        molecule = Chem.RemoveHs(without_isotopes(molecule))
    Chem.RemoveStereochemistry(molecule)
    with rdBase.BlockLogs():
        return rdMolStandardize.Uncharger().uncharge(molecule)


def _molecule_hash(flat: Chem.Mol) -> int:
    return stable_hash(Chem.MolToSmiles(flat, isomericSmiles=False))  # no isotopes either


def _scaffold_hash(flat: Chem.Mol) -> int | None:
    """Return the hash of the scaffold, or None for a molecule without rings."""
    scaffold = scaffold_smiles(flat)
    return stable_hash(scaffold) if scaffold else None


def _sorted(hashes: Iterable[int]) -> UInt64:
    return np.array(sorted(hashes), np.uint64)


def _contains(hashes: UInt64, wanted: int | None) -> bool:
    if wanted is None or not len(hashes):
        return False
    at = int(np.searchsorted(hashes, np.uint64(wanted)))
    return at < len(hashes) and int(hashes[at]) == wanted
