"""Embeds the molecules of a file or a store into a file, as a stream: memory does not grow with Parquet or CSV.

Shapes: R rows at a time, n atoms of a molecule, D atom channels, P pair channels, L layers,
H heads.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.selection.exclusions import SOURCE_OF_SUFFIX
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.file_names import bare_suffix
from conformer_gen.sources.molecule import SourceMolecule
from conformer_gen.sources.reader import read_source
from unimol_scale.checkpoints.parity import cast_parameters
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.common.files import commit_file
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.output_checks import require_file
from unimol_scale.common.progress import StageProgress
from unimol_scale.downstream.config import Fragments, Precision
from unimol_scale.downstream.data.inputs import check_conformers, choose_inputs
from unimol_scale.downstream.data.molecule_files import check_apart, check_there, is_store, skipped_file
from unimol_scale.downstream.data.molecules import (
    ChangeCount,
    UInt64,
    leaves_out_hydrogens,
    prepare,
    whole_split,
    why_refused,
)
from unimol_scale.downstream.data.pretraining_data import pretrained_with_hydrogens
from unimol_scale.downstream.data.sdf_table import describe_geometry, structure_smiles
from unimol_scale.downstream.data.skipped_rows import REMEDY, Skipped, SkippedTable, refuse_skipped
from unimol_scale.downstream.embedding.representations import Kind, RepresentationConfig, represent
from unimol_scale.downstream.embedding.vector_files import check_suffix, open_writer
from unimol_scale.errors import ConfigError, SourceError
from unimol_scale.model.presets import ModelConfig
from unimol_scale.store.schema import Float32, Int64
from unimol_scale.store.shards import StoreSplit, open_store

ROWS_TOGETHER = 20_000  # rows whose conformers are made and cached together
SUFFIXES = SOURCE_OF_SUFFIX
GPU_WORKERS = 2  # loader processes; without a GPU they would take CPU time from the model


@dataclass(frozen=True, kw_only=True)
class EmbedFileConfig:
    """Settings of ``embed_file``.

    Attributes:
        source: table or lines of SMILES or SDF, plain or compressed, or a conformer store.
        pretrained: model, as ``from_pretrained`` takes it.
        output: Parquet file; for the vectors of molecules also .csv or .npz.
        representation: which representation, of which inputs, with which memory budget.
        smiles_column: of a table; None finds it by the usual names.
        cache: folder of the conformers.
        device: auto, cpu or cuda.
        precision: of the model's weights; results are fp32.
        skip_bad: list rows without a usable molecule in a table beside the output instead of stopping.
        max_atoms: molecules with more heavy atoms are refused; None: 128.
        fragments: for a row with several, such as a salt: take the "largest", or "reject" the row.
        hydrogens: the model sees hydrogens as atoms; None: as it was pretrained, and without where that is not known.
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
        """Table of the rows without a usable molecule."""
        return skipped_file(self.output)


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """A part of the rows: those with a molecule, and those without one.

    Attributes:
        split: the molecules.
        position_R: int64, position of each row's molecule in ``split``.
        row_R: int64, number of each row, from 0.
        smiles: [R] canonical.
        key_R: uint64.
        leaves_out_hydrogens: hydrogens have to be removed from the molecules.
        skipped: rows without a molecule.
        changes: [R] how the molecule differs from the one in the row, in words; "" if it does not.
    """

    split: StoreSplit
    position_R: Int64
    row_R: Int64
    smiles: Sequence[str]
    key_R: UInt64
    leaves_out_hydrogens: bool
    skipped: Sequence[Skipped]
    changes: Sequence[str]


def embed_file(config: EmbedFileConfig) -> str:
    """Write the representations of all molecules of a file or a store; return lines for the user.

    Hydrogens are atoms of the molecules if the model has seen them so in pretraining, or if that is asked for. Those
    that a store has as atoms are removed otherwise.

    Columns: ``row`` (from 1, without the header), ``smiles`` (canonical, as the model saw it), ``key``, ``changes``
    (how the molecule differs from the one in the row, such as a fragment that was taken; empty if it does not), and the
    representation. That is ``embedding``, a list of D numbers, for molecules; ``atoms``, a list of n such lists, for
    atoms; ``num_atoms`` and ``pairs``, a list of n·n lists of P numbers, row by row of the matrix, for pairs; and
    ``num_atoms`` and ``attention``, the same with L·H numbers (see ``RepresentationConfig``), for attention scores. The
    metadata of the schema has the SHA-256 of the weights, the representation and the inputs, and for attention scores
    the numbers of layers and heads. The file is complete or absent. ``vector_files`` has the columns of .csv and .npz.

    Raises:
        SourceError: the source is missing or wrong, has no usable row, or has unusable ones and ``skip_bad`` is off.
        CheckpointError: the model cannot be read.
        ConfigError: the model cannot see the inputs, or the output cannot be written.
        StoreError: the store or the cache is damaged, or has 2D depictions and the model needs conformers.
    """
    source = None if is_store(config.source) else _source_of(config)
    if source is None and (config.smiles_column is not None or config.fragments == "reject"):
        raise ConfigError(
            "--smiles-column and --fragments reject are of tables; a store has the molecules it was built with"
        )
    require_file(config.output)
    device = pick_device(config.device)
    sha256 = identify(config.pretrained).sha256
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    model = cast_parameters(load_pretrained(config.pretrained), dtype)
    backbone = model.backbone.to(device)
    workers = GPU_WORKERS if device.type == "cuda" else 0
    representation = dataclasses.replace(config.representation, workers=workers)
    chosen = choose_inputs(representation.inputs, backbone.config, model.seen)
    inputs = chosen.inputs
    check_conformers(representation.conformers, inputs)
    hydrogens = config.hydrogens
    if hydrogens is None:
        hydrogens = bool(pretrained_with_hydrogens(config.pretrained))
    total: int | None
    if source is None:
        store = open_store(config.source)
        split = whole_split(store)
        leaves_out = leaves_out_hydrogens(store.manifest.hydrogens, hydrogens, str(config.source))
        total, chunks = len(split), _of_store(split, leaves_out=leaves_out)
    else:
        total = _check_rows(source, config)
        chunks = _of_file(source, config, geometry=inputs != "2d", hydrogens=hydrogens)
    schema = _schema(representation.kind, backbone.config).with_metadata(
        {
            "weights_sha256": sha256,
            "inputs": inputs,
            "hydrogens": str(hydrogens).lower(),
            "conformers": str(representation.conformers),
            "precision": config.precision,
            **_metadata(representation, backbone.config),
        }
    )
    written = 0
    changed = ChangeCount()

    def write(temporary: Path) -> None:
        nonlocal written
        with (
            open_writer(temporary, config.output.suffix, schema) as writer,
            StageProgress("representing", total) as progress,
        ):
            for chunk in chunks:
                skipped.add(chunk.skipped)
                for row, changes in zip(chunk.row_R.tolist(), chunk.changes, strict=True):
                    changed.add(row, changes)
                at = 0
                for arrays in represent(
                    backbone,
                    chunk.split,
                    chunk.position_R,
                    representation,
                    seen=model.seen,
                    drop_hydrogens=chunk.leaves_out_hydrogens,
                ):
                    writer.write_table(_table(chunk, at, arrays, schema))
                    at += len(arrays)
                    progress.advance(len(arrays))
                    progress.tick()
                written += at
            if not written:
                refuse_skipped(skipped.first, skipped.rows, str(config.source), "Nothing is left to embed")
                raise SourceError(f"{config.source} has no rows: nothing to embed")

    with SkippedTable(config.skipped_file, config.source, skip_bad=config.skip_bad) as skipped:
        commit_file(config.output, write)
    line = f"{written:,} of {written + skipped.rows:,} rows embedded: {config.output}"
    line += f"; the other {skipped.rows:,}: {config.skipped_file}" if skipped.rows else ""
    geometry = describe_geometry(config.source, sees_3d=inputs != "2d")
    return "\n".join(filter(None, (line, chosen.warning, changed.describe(), geometry)))


def _source_of(config: EmbedFileConfig) -> SourceConfig:
    """Return how the builder reads the file.

    Raises:
        SourceError: the file is missing or of an unknown kind.
    """
    check_there(config.source)
    suffix = bare_suffix(config.source.name)
    if suffix not in SUFFIXES:
        raise SourceError(
            f"{config.source}: the name must end in {', '.join(SUFFIXES)}, plain or compressed; of other files build a "
            "store first: unimol-scale build"
        )
    return SourceConfig(name=SUFFIXES[suffix], input=(str(config.source),), smiles_column=config.smiles_column)


def _check_rows(source: SourceConfig, config: EmbedFileConfig) -> int | None:
    """Check that all rows have a usable molecule, and return their number; None, unchecked, if rows may be skipped.

    Raises:
        SourceError: a row has no usable molecule; names the first ones.
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


def _of_file(source: SourceConfig, config: EmbedFileConfig, *, geometry: bool, hydrogens: bool) -> Iterator[_Chunk]:
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
        yield _Chunk(
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
    """Return a row with the SMILES of its structure, also for a record of an SDF file."""
    smiles, problem = structure_smiles(molecule)
    return SourceMolecule(id=molecule.id, smiles=smiles, problem=problem)


def _of_store(split: StoreSplit, *, leaves_out: bool) -> Iterator[_Chunk]:
    for start in range(0, len(split), ROWS_TOGETHER):
        position_R = np.arange(start, min(start + ROWS_TOGETHER, len(split)), dtype=np.int64)
        smiles = split.smiles(position_R)
        key_R = np.array([stable_hash(text) for text in smiles], np.uint64)
        yield _Chunk(
            split=split,
            position_R=position_R,
            row_R=position_R,
            smiles=smiles,
            key_R=key_R,
            leaves_out_hydrogens=leaves_out,
            skipped=(),
            changes=("",) * len(smiles),
        )


def _metadata(representation: RepresentationConfig, model: ModelConfig) -> dict[str, str]:
    metadata = {"representation": representation.kind, "pooling": "none"}
    if representation.kind == "molecule":
        metadata["pooling"] = representation.pooling
    elif representation.kind == "attention":
        metadata |= {"layers": str(model.layers), "heads": str(model.heads)}
    return metadata


def _schema(kind: Kind, model: ModelConfig) -> pa.Schema:
    atom = pa.list_(pa.float32(), model.atom_width)
    columns = {"row": pa.int64(), "smiles": pa.string(), "key": pa.uint64(), "changes": pa.string()}
    if kind == "molecule":
        columns["embedding"] = atom
    elif kind == "atom":
        columns["atoms"] = pa.list_(atom)
    elif kind == "pair":
        columns |= {"num_atoms": pa.int32(), "pairs": pa.list_(pa.list_(pa.float32(), model.pair_width))}
    else:
        score = pa.list_(pa.float32(), model.layers * model.heads)
        columns |= {"num_atoms": pa.int32(), "attention": pa.list_(score)}
    return pa.schema([pa.field(name, of, nullable=False) for name, of in columns.items()])


def _table(chunk: _Chunk, start: int, arrays: Sequence[Float32], schema: pa.Schema) -> pa.Table:
    """Return the rows of a chunk from ``start`` on, one for each array."""
    here = slice(start, start + len(arrays))
    columns = [pa.array(chunk.row_R[here] + 1), pa.array(chunk.smiles[here]), pa.array(chunk.key_R[here])]
    columns.append(pa.array(chunk.changes[here], pa.string()))
    if "num_atoms" in schema.names:
        columns.append(pa.array([len(array) for array in arrays], pa.int32()))
    values = schema.field(schema.names[-1]).type
    flat = np.concatenate([array.ravel() for array in arrays])
    if pa.types.is_fixed_size_list(values):
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), type=values))
    else:
        width = values.value_type.list_size
        ends = np.cumsum([0, *(array.size // width for array in arrays)]).astype(np.int32)
        items = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=values.value_type)
        columns.append(pa.ListArray.from_arrays(pa.array(ends), items, type=values))
    return pa.table(columns, schema=schema)
