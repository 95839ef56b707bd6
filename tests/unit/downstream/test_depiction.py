"""Pictures of molecules: strong colours at atoms with large values, and the same scale where one is asked for."""

import re

import numpy as np
import pytest

from unimol_scale.downstream.depiction import draw_molecule, draw_values, lenient_molecule
from unimol_scale.downstream.finetuning.reporting.activity_cliffs import find_cliffs


def colours(path):
    return re.findall(r"fill:(#[0-9A-F]{6})", path.read_text())


def test_the_atom_with_the_largest_value_is_red_and_a_negative_one_blue(tmp_path):
    draw_values(tmp_path / "a.svg", "CCO", np.array([-1.0, 0.0, 1.0]))
    found = colours(tmp_path / "a.svg")
    assert {"#EF6B4C", "#5B89E5"} <= set(found)
    draw_values(tmp_path / "b.svg", "CCO", np.array([-1.0, 0.0, 1.0]), largest=100.0)
    assert "#EF6B4C" not in colours(tmp_path / "b.svg")
    with pytest.raises(ValueError, match="2 values for the 3 atoms"):
        draw_values(tmp_path / "c.svg", "CCO", np.zeros(2))


def test_a_molecule_without_any_value_is_drawn_without_colours(tmp_path):
    draw_values(tmp_path / "a.svg", "CC", np.zeros(2))
    draw_molecule(tmp_path / "b.svg", "CC")
    assert "<svg" in (tmp_path / "b.svg").read_text()


def test_a_molecule_that_rdkit_does_not_accept_is_drawn_all_the_same(tmp_path):
    smiles = "C[H]C"  # a hydrogen with two bonds
    draw_values(tmp_path / "a.svg", smiles, np.array([1.0, 0.0, 0.0]))
    assert [atom.GetSymbol() for atom in lenient_molecule(smiles).GetAtoms()] == ["C", "H", "C"]
    assert find_cliffs([smiles, smiles], np.array([[1.0], [9.0]]), np.ones(1)).pairs == 0
