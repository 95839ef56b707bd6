"""Reads the rows of a file or a store for embedding, some thousands at a time. Shapes: R rows at a time."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.selection.exclusions import SOURCE_OF_SUFFIX
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.file_names import bare_suffix
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from unimol_scale.common.progress import StageProgress
from unimol_scale.downstream.config import Fragments, Precision
from unimol_scale.downstream.data.molecule_files import check_apart, check_there, is_store, skipped_file
from unimol_scale.downstream.data.molecules import (
    UInt64,
    leaves_out_hydrogens,
    prepare,
    whole_split,
    why_refused,
)
from unimol_scale.downstream.data.sdf_table import structure_smiles
from unimol_scale.downstream.data.skipped_rows import REMEDY, Skipped, refuse_skipped
from unimol_scale.downstream.embedding.representations import RepresentationConfig
from unimol_scale.downstream.embedding.vector_files import check_suffix
from unimol_scale.errors import ConfigError, SourceError
from unimol_scale.store.schema import Int64
from unimol_scale.store.shards import StoreSplit, open_store

ROWS_TOGETHER = 20_000  # number of rows whose conformers are generated and cached together
SUFFIXES = SOURCE_OF_SUFFIX


@dataclass(frozen=True, kw_only=True)
class EmbedFileConfig:
    """Settings of ``embed_file``.

    Attributes:
        source: table, lines of SMILES or SDF, plain or compressed, or a conformer store.
        pretrained: a model in any form that ``from_pretrained`` accepts.
        output: Parquet file; for vectors of molecules also .csv or .npz.
        representation: kind of representation, inputs and memory budget.
        smiles_column: column of the SMILES in a table; None finds it by common names.
        cache: folder in which conformers are kept.
        device: auto, cpu or cuda.
        precision: dtype of the model's weights; results are fp32.
        skip_bad: list rows without a usable molecule in a table beside the output instead of stopping with an error.
        max_atoms: molecules with more heavy atoms are refused; None: 128.
        fragments: for molecules of several fragments, such as salts: use the "largest", or "reject" the row.
        hydrogens: whether hydrogens are atoms; None: as in pretraining, or no if that is not known.
    """

    source: Path
    pretrained: str
    output: Path
    representation: RepresentationConfig
    smiles_column: str | None = None
    cache: Path = Path("data/cache")
    device: str = "auto"
    precision: Precision = "fp32"
    skip_bad: bool = False
    max_atoms: int | None = None
    fragments: Fragments = "largest"
    hydrogens: bool | None = None

    def __post_init__(self) -> None:
        check_suffix(self.output, self.representation.kind)
        check_apart(self.output, self.source)

    @property
    def skipped_file(self) -> Path:
        """Path of the table of rows without a usable molecule."""
        return skipped_file(self.output)


@dataclass(frozen=True, kw_only=True)
class RowChunk:
    """A part of the rows: those with a molecule, and those without one.

    Attributes:
        split: the molecules.
        position_R: position of each row's molecule in ``split``, int64.
        row_R: number of each row, from 0, int64.
        smiles: [R] canonical SMILES.
        key_R: hashes of the canonical SMILES, uint64.
        leaves_out_hydrogens: whether hydrogens must be removed from the molecules.
        skipped: rows without a molecule.
        changes: [R] how the molecule differs from that in the row, in words; "" if it does not.
    """

    split: StoreSplit
    position_R: Int64
    row_R: Int64
    smiles: Sequence[str]
    key_R: UInt64
    leaves_out_hydrogens: bool
    skipped: Sequence[Skipped]
    changes: Sequence[str]

    def share(self, here: slice) -> "RowChunk":
        """Return some of the rows with a molecule."""
        return dataclasses.replace(
            self,
            position_R=self.position_R[here],
            row_R=self.row_R[here],
            smiles=self.smiles[here],
            key_R=self.key_R[here],
            changes=self.changes[here],
        )


@dataclass(frozen=True, kw_only=True)
class SourceRows:
    """The source of the rows.

    Attributes:
        config: settings of the embedding.
        source: how the builder reads the file; None for a store.
    """

    config: EmbedFileConfig
    source: SourceConfig | None

    @staticmethod
    def of(config: EmbedFileConfig) -> "SourceRows":
        """Return the source that the settings name.

        Raises:
            SourceError: the file is missing or of an unknown kind.
            ConfigError: a setting for tables was given for a store.
        """
        source = None if is_store(config.source) else _source_of(config)
        if source is None and (config.smiles_column is not None or config.fragments == "reject"):
            raise ConfigError(
                "--smiles-column and --fragments reject apply to tables; a store has the molecules it was built with"
            )
        return SourceRows(config=config, source=source)

    def chunks(self, *, geometry: bool, hydrogens: bool) -> tuple[int | None, Iterator[RowChunk]]:
        """Return the number of rows (None if it is not known) and the rows in chunks.

        Args:
            geometry: whether the model sees distances.
            hydrogens: whether it sees hydrogens as atoms.

        Raises:
            SourceError: a row has no usable molecule, and ``skip_bad`` is False.
        """
        if self.source is not None:
            total = _check_rows(self.source, self.config)
            return total, _of_file(self.source, self.config, geometry=geometry, hydrogens=hydrogens)
        store = open_store(self.config.source)
        split = whole_split(store)
        leaves_out = leaves_out_hydrogens(store.manifest.hydrogens, hydrogens, str(self.config.source))
        return len(split), _of_store(split, leaves_out=leaves_out)


def _source_of(config: EmbedFileConfig) -> SourceConfig:
    """Return how the builder reads the file.

    Raises:
        SourceError: the file is missing or of an unknown kind.
    """
    check_there(config.source)
    suffix = bare_suffix(config.source.name)
    if suffix not in SUFFIXES:
        raise SourceError(
            f"{config.source}: the name must end in {', '.join(SUFFIXES)}, plain or compressed; for other files, build "
            "a store first: unimol-scale build"
        )
    return SourceConfig(name=SUFFIXES[suffix], input=(str(config.source),), smiles_column=config.smiles_column)


def _check_rows(source: SourceConfig, config: EmbedFileConfig) -> int | None:
    """Check that all rows have a usable molecule and return their number; if rows may be skipped, return None at once.

    Raises:
        SourceError: a row has no usable molecule. The message names the first ones.
    """
    if config.skip_bad:
        return None
    bad: list[Skipped] = []
    rows = 0
    with StageProgress("checking", None) as progress:
        for rows, molecule in enumerate(read_source(source), start=1):
            molecule = _with_smiles(molecule)
            why = why_refused(molecule, config.max_atoms, config.fragments)
            if why is not None:
                bad.append(Skipped(row=rows - 1, smiles=molecule.smiles, reason=why.reason, detail=why.detail))
            progress.advance(1)
            progress.tick()
    refuse_skipped(bad, rows, str(config.source), REMEDY)
    return rows


def _of_file(source: SourceConfig, config: EmbedFileConfig, *, geometry: bool, hydrogens: bool) -> Iterator[RowChunk]:
    rows = enumerate(map(_with_smiles, read_source(source)))
    while some := list(itertools.islice(rows, ROWS_TOGETHER)):
        prepared = prepare(
            [molecule.smiles for _, molecule in some],
            cache=config.cache,
            geometry=geometry,
            max_atoms=config.max_atoms,
            workers=None,
            fragments=config.fragments,
            problems={at: molecule.problem for at, (_, molecule) in enumerate(some) if molecule.problem},
            hydrogens=hydrogens,
            conformers=config.representation.conformers,
        )
        row_M = np.array([row for row, _ in some], np.int64)
        used = np.flatnonzero(prepared.position_M >= 0)
        yield RowChunk(
            split=prepared.split,
            position_R=prepared.position_M[used],
            row_R=row_M[used],
            smiles=[prepared.smiles[at] for at in used.tolist()],
            key_R=prepared.key_M[used],
            leaves_out_hydrogens=False,
            skipped=[dataclasses.replace(one, row=int(row_M[one.row])) for one in prepared.skipped],
            changes=[prepared.changes[at] for at in used.tolist()],
        )


def _with_smiles(molecule: SourceMolecule) -> SourceMolecule:
    """Return a row with the SMILES of its structure, which is derived for records of an SDF file."""
    smiles, problem = structure_smiles(molecule)
    return SourceMolecule(id=molecule.id, smiles=smiles, problem=problem)


def _of_store(split: StoreSplit, *, leaves_out: bool) -> Iterator[RowChunk]:
    for start in range(0, len(split), ROWS_TOGETHER):
        position_R = np.arange(start, min(start + ROWS_TOGETHER, len(split)), dtype=np.int64)
        smiles = split.smiles(position_R)
        key_R = np.array([stable_hash(text) for text in smiles], np.uint64)
        yield RowChunk(
            split=split,
            position_R=position_R,
            row_R=position_R,
            smiles=smiles,
            key_R=key_R,
            leaves_out_hydrogens=leaves_out,
            skipped=(),
            changes=("",) * len(smiles),
        )
