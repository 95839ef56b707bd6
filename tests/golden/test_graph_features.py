"""Our raw codes, in the reference's integer encoding, equal what the public Uni-Mol2 code computed."""

import json
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from conformer_gen.chemistry.graph import molecule_graph

# In the public format, feature k with value v → v + 1 + 16k + 2 for atoms, v + 1 + 16k + 1 + 2 for bonds; no bond → 2.
ATOM_OFFSETS = 1 + 16 * np.arange(8) + 2
BOND_OFFSETS = 1 + 16 * np.arange(3) + 1 + 2
NO_BOND = 2


def test_every_integer_of_the_shown_molecules_is_equal(shared_data: Path) -> None:
    folder = shared_data.parent / "golden" / "official-a"
    if not folder.is_dir():
        pytest.skip("the golden outputs are not there")
    molecules = json.loads((folder / "meta.json").read_text())["molecules"]
    shown = [number for number, molecule in enumerate(molecules) if not molecule["drop_features"]]
    assert shown
    with np.load(folder / "features.npz") as golden:
        for number in shown:
            graph = molecule_graph(Chem.MolFromSmiles(molecules[number]["smiles"]))
            n = len(graph.atomic_number)
            edges = np.full((n, n, 3), NO_BOND)
            for (i, j), codes in zip(graph.bond_index, graph.bond_features, strict=True):
                edges[i, j] = edges[j, i] = codes + BOND_OFFSETS
            np.testing.assert_array_equal(graph.atomic_number, golden[f"{number}/atomic_number"])
            np.testing.assert_array_equal(graph.atom_features + ATOM_OFFSETS, golden[f"{number}/atom_feat"])
            np.testing.assert_array_equal(edges, golden[f"{number}/edge_feat"])
