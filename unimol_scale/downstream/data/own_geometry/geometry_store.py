"""Writes a store of molecules with their own geometries. Imports the builder's settings.

A build keeps one record per molecule; here a molecule may have several geometries, each with its own record.
"""

from collections.abc import Sequence
from pathlib import Path

from rdkit import rdBase

from conformer_gen.chemistry.config import ConformerConfig
from unimol_scale.store.manifest import Counts, Manifest, SplitEntry
from unimol_scale.store.schema import COORDINATE_SCALE, PLANAR_SCALE, Layout, MoleculeRecord, encode
from unimol_scale.store.shards import size_histogram, write_manifest, write_shard

SOURCE = "molecules with geometry"


def write_own_geometry(path: Path, records: Sequence[MoleculeRecord], conformers: ConformerConfig) -> None:
    """Write a store whose split ``train`` has the records in their order; ``valid`` is empty.

    Args:
        path: folder of the store; made, or overwritten.
        records: the molecules; at least one.
        conformers: how conformers of molecules without geometry are made; recorded in the store with its ``hydrogens``.

    Raises:
        OSError: the store cannot be written.
    """
    layout = Layout(COORDINATE_SCALE)
    entry = write_shard(path.absolute(), "train/shard-00000", encode(records, layout), "arrow")
    train = SplitEntry(shards=(entry,), size_histogram=size_histogram(len(one.atomic_number) for one in records))
    manifest = Manifest(
        backend="arrow",
        coordinate_scale=COORDINATE_SCALE,
        planar_scale=PLANAR_SCALE,
        source=SOURCE,
        seed=0,
        hydrogens=conformers.hydrogens,
        conformer_recipe=conformers.recipe(),
        parameters={},
        versions={"rdkit": rdBase.rdkitVersion},
        counts=Counts(read=len(records), stored=len(records), duplicates=0, failed=0),
        splits={"train": train, "valid": SplitEntry(shards=(), size_histogram={})},
    )
    write_manifest(path, manifest)
