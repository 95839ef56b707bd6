"""Embeds the molecules of a file or a store into a file, as a stream: with Parquet or CSV memory use is constant.

Shapes: R rows at a time, n atoms of a molecule, D atom channels, P pair channels, L layers,
H heads.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from unimol_scale.checkpoints.parity import cast_parameters
from unimol_scale.checkpoints.weights import identify, load_pretrained
from unimol_scale.common.files import commit_file
from unimol_scale.common.machine.devices import pick_device
from unimol_scale.common.output_checks import require_file
from unimol_scale.common.progress import StageProgress
from unimol_scale.data.input_views import InputsSeen
from unimol_scale.downstream.data.inputs import ChosenInputs, check_conformers, choose_inputs
from unimol_scale.downstream.data.molecules import ChangeCount
from unimol_scale.downstream.data.pretraining_data import pretrained_with_hydrogens
from unimol_scale.downstream.data.sdf_table import describe_geometry
from unimol_scale.downstream.data.skipped_rows import SkippedTable, refuse_skipped
from unimol_scale.downstream.embedding.pooling import vector_width
from unimol_scale.downstream.embedding.rank_parts import open_parts, put_together, share_of
from unimol_scale.downstream.embedding.representations import RepresentationConfig, represent
from unimol_scale.downstream.embedding.row_chunks import EmbedFileConfig, RowChunk, SourceRows
from unimol_scale.downstream.embedding.vector_files import open_writer
from unimol_scale.engine.parallel.ranks import Ranks
from unimol_scale.errors import SourceError
from unimol_scale.model.backbone import TwoTrackBackbone
from unimol_scale.model.presets import ModelConfig
from unimol_scale.store.schema import Float32

GPU_WORKERS = 2  # loader processes; without a GPU they would take CPU time from the model


def embed_file(config: EmbedFileConfig, ranks: Ranks | None = None) -> str:
    """Write the representations of all molecules of a file or a store; return lines for the user.

    Hydrogens are atoms of the molecules if they were in pretraining, or if that is requested. Otherwise hydrogens that
    are atoms in a store are removed.

    Columns: ``row`` (from 1, without the header), ``smiles`` (canonical, as the model saw it), ``key``, ``changes``
    (how the molecule differs from that in the row, such as the fragment that was used; empty if it does not), and the
    representation. For molecules that is ``embedding``, a list of D numbers; for atoms ``atoms``, a list of n such
    lists; for pairs ``num_atoms`` and ``pairs``, a list of n·n lists of P numbers, the matrix row by row; for attention
    scores ``num_atoms`` and ``attention``, the same with L·H numbers (see ``RepresentationConfig``). The metadata of
    the schema holds the SHA-256 of the weights, the representation and the inputs, and for attention scores the numbers
    of layers and heads. The file is complete or absent. ``vector_files`` documents the columns of .csv and .npz.

    Args:
        config: what to embed and how.
        ranks: ranks that share the rows. All of them call this function and see the folder of the output; the first one
            writes it. None: this process works alone.

    Raises:
        SourceError: the source is missing or wrong, has no usable rows, or has unusable rows and ``skip_bad`` is False.
        CheckpointError: the model cannot be read.
        ConfigError: the model cannot see the inputs, or the output cannot be written.
        StoreError: the store or the cache is damaged, or has 2D depictions but the model needs conformers.
    """
    given = SourceRows.of(config)
    if ranks is None or ranks.is_main:
        require_file(config.output)
    embedder = _Embedder.of(config, ranks)
    hydrogens = embedder.hydrogens
    total, chunks = given.chunks(geometry=embedder.chosen.inputs != "2d", hydrogens=hydrogens)
    is_main = ranks is None or ranks.is_main
    with contextlib.ExitStack() as stack:
        skipped_file = config.skipped_file
        if ranks is not None:
            folder = stack.enter_context(open_parts(config.output, ranks))
            skipped_file = skipped_file if is_main else folder / f"skipped-{ranks.rank}.csv"
        skipped = stack.enter_context(SkippedTable(skipped_file, config.source, skip_bad=config.skip_bad))
        progress = stack.enter_context(StageProgress("representing", total, shown=is_main))
        each = (embedder.tables(chunk, skipped, progress) for chunk in chunks)
        if ranks is None:
            rows: Iterator[pa.Table] = itertools.chain.from_iterable(each)
        else:
            rows = put_together(each, embedder.schema, folder, ranks)
        written = _write(config, embedder.schema, rows, skipped) if is_main else len(list(rows))
    line = f"{written:,} of {written + skipped.rows:,} rows embedded: {config.output}"
    line += f"; the other {skipped.rows:,} are listed in {config.skipped_file}" if skipped.rows else ""
    geometry = describe_geometry(config.source, sees_3d=embedder.chosen.inputs != "2d")
    return "\n".join(filter(None, (line, embedder.chosen.warning, embedder.changed.describe(), geometry)))


def _write(config: EmbedFileConfig, schema: pa.Schema, rows: Iterable[pa.Table], skipped: SkippedTable) -> int:
    """Write the output, and return its number of rows.

    Raises:
        SourceError: there are no rows to write.
    """
    written = 0

    def write(temporary: Path) -> None:
        nonlocal written
        with open_writer(temporary, config.output.suffix, schema) as writer:
            for table in rows:
                writer.write_table(table)
                written += len(table)
            if not written:
                refuse_skipped(skipped.first, skipped.rows, str(config.source), "Nothing is left to embed")
                raise SourceError(f"{config.source} has no rows: nothing to embed")

    commit_file(config.output, write)
    return written


@dataclass(frozen=True, kw_only=True)
class _Embedder:
    """Makes tables of the representations of rows.

    Attributes:
        backbone: the model, on its device.
        seen: the inputs that the model was pretrained on.
        chosen: the inputs of the model.
        hydrogens: whether it sees hydrogens as atoms.
        representation: the kind of representation.
        schema: schema of the tables.
        ranks: ranks that share the rows of every chunk; None: this process works alone.
        changed: counts rows whose molecule differs from the given one.
    """

    backbone: TwoTrackBackbone
    seen: InputsSeen | None
    chosen: ChosenInputs
    hydrogens: bool
    representation: RepresentationConfig
    schema: pa.Schema
    ranks: Ranks | None
    changed: ChangeCount

    @staticmethod
    def of(config: EmbedFileConfig, ranks: Ranks | None) -> "_Embedder":
        """Load the model.

        Raises:
            CheckpointError: the model cannot be read.
            ConfigError: the model cannot see the inputs, or the device does not exist.
        """
        device = pick_device(config.device) if ranks is None else ranks.device
        sha256 = identify(config.pretrained).sha256
        dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
        model = cast_parameters(load_pretrained(config.pretrained), dtype)
        workers = GPU_WORKERS if device.type == "cuda" else 0
        representation = dataclasses.replace(config.representation, workers=workers)
        chosen = choose_inputs(representation.inputs, model.backbone.config, model.seen)
        check_conformers(representation.conformers, chosen.inputs)
        hydrogens = config.hydrogens
        if hydrogens is None:
            hydrogens = bool(pretrained_with_hydrogens(config.pretrained))
        metadata = {
            "weights_sha256": sha256,
            "inputs": chosen.inputs,
            "hydrogens": str(hydrogens).lower(),
            "conformers": str(representation.conformers),
            "precision": config.precision,
            **_metadata(representation, model.backbone.config),
        }
        return _Embedder(
            backbone=model.backbone.to(device),
            seen=model.seen,
            chosen=chosen,
            hydrogens=hydrogens,
            representation=representation,
            schema=_schema(representation, model.backbone.config).with_metadata(metadata),
            ranks=ranks,
            changed=ChangeCount(),
        )

    def tables(self, chunk: RowChunk, skipped: SkippedTable, progress: StageProgress) -> Iterator[pa.Table]:
        """Yield the rows of a chunk, or this rank's share of them."""
        skipped.add(chunk.skipped)
        for row, changes in zip(chunk.row_R.tolist(), chunk.changes, strict=True):
            self.changed.add(row, changes)
        ranks = self.ranks
        if ranks is not None:
            chunk = chunk.share(share_of(len(chunk.row_R), ranks))
        pieces = represent(
            self.backbone,
            chunk.split,
            chunk.position_R,
            self.representation,
            seen=self.seen,
            drop_hydrogens=chunk.leaves_out_hydrogens,
        )
        at = 0
        for arrays in pieces:
            yield _table(chunk, at, arrays, self.schema)
            at += len(arrays)
            progress.advance(len(arrays) * (1 if ranks is None else ranks.world_size))
            progress.tick()


def _metadata(representation: RepresentationConfig, model: ModelConfig) -> dict[str, str]:
    metadata = {"representation": representation.kind, "pooling": "none"}
    if representation.kind == "molecule":
        metadata["pooling"] = representation.pooling
    elif representation.kind == "attention":
        metadata |= {"layers": str(model.layers), "heads": str(model.heads)}
    return metadata


def _schema(representation: RepresentationConfig, model: ModelConfig) -> pa.Schema:
    atom = pa.list_(pa.float32(), model.atom_width)
    columns = {"row": pa.int64(), "smiles": pa.string(), "key": pa.uint64(), "changes": pa.string()}
    kind = representation.kind
    if kind == "molecule":
        columns["embedding"] = pa.list_(pa.float32(), vector_width(model, representation.pooling))
    elif kind == "atom":
        columns["atoms"] = pa.list_(atom)
    elif kind == "pair":
        columns |= {"num_atoms": pa.int32(), "pairs": pa.list_(pa.list_(pa.float32(), model.pair_width))}
    else:
        score = pa.list_(pa.float32(), model.layers * model.heads)
        columns |= {"num_atoms": pa.int32(), "attention": pa.list_(score)}
    return pa.schema([pa.field(name, of, nullable=False) for name, of in columns.items()])


def _table(chunk: RowChunk, start: int, arrays: Sequence[Float32], schema: pa.Schema) -> pa.Table:
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
