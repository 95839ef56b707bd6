"""The list of sources: name → where its entry is. Imports nothing that reads."""

from typing import Any

from conformer_gen.sources.source import Source
from unimol_scale.common.plugins import Registry
from unimol_scale.errors import ConfigError


def _adopt(found: Any, name: str) -> Source:  # noqa: ANN401
    entry = found() if callable(found) and not isinstance(found, type) else found
    if not isinstance(entry, Source):
        raise ConfigError(
            "it must be a conformer_gen.sources.source.Source, or a function without arguments that returns one, not "
            f"{entry!r}"
        )
    return entry


_HERE = "conformer_gen.sources"
SOURCES = Registry(
    "source",
    {
        "sample": f"{_HERE}.lines:SAMPLE",
        "zinc20": f"{_HERE}.data_sets.tranches:ZINC20",
        "smiles": f"{_HERE}.lines:SMILES",
        "csv": f"{_HERE}.tables:CSV",
        "parquet": f"{_HERE}.tables:PARQUET",
        "sdf": f"{_HERE}.structures:SDF",
        "pcqm4mv2": f"{_HERE}.data_sets.pcqm4mv2:PCQM4MV2",
        "qm9": f"{_HERE}.data_sets.qm9:QM9",
        "xyz": f"{_HERE}.frame_files.xyz:XYZ",
        "ase-db": f"{_HERE}.frame_files.ase_db:ASE_DB",
        "hdf5": f"{_HERE}.frame_files.hdf5:HDF5",
        "geom": f"{_HERE}.frame_files.geom:GEOM",
        "md17": f"{_HERE}.frame_files.md17:MD17",
        "pdb-ligands": f"{_HERE}.frame_files.pdb_ligands:PDB_LIGANDS",
        "mol2": f"{_HERE}.mol2:MOL2",
        "unimol-lmdb": f"{_HERE}.data_sets.unimol:UNIMOL_LMDB",
    },
    _adopt,
)
