"""Rows of sources as plain values, which can be compared."""

import dataclasses

from conformer_gen.sources.molecule import SourceMolecule


def plain(row: SourceMolecule) -> object:
    """A row as plain values, since arrays have no equality."""
    if row.geometry is None:
        return row
    fields = {field.name: getattr(row.geometry, field.name) for field in dataclasses.fields(row.geometry)}
    arrays = {name: (each.shape, each.tobytes()) for name, each in row.geometry.atom_labels.items()}
    return repr(dataclasses.replace(row, geometry=None)), {
        **fields,
        "positions": (row.geometry.positions.shape, row.geometry.positions.tobytes()),
        "atom_labels": arrays,
        "energies": repr(row.geometry.energies),
    }
