"""Features of molecules whose codes are known by hand."""

from rdkit import Chem

from conformer_gen.chemistry.graph import molecule_graph
from unimol_scale.store.schema import ATOM_VOCABULARIES, BOND_VOCABULARIES


def words(codes: list[int], vocabularies: dict[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: vocabularies[name][code] for name, code in zip(vocabularies, codes, strict=True)}


def test_a_charged_aromatic_atom() -> None:
    graph = molecule_graph(Chem.MolFromSmiles("c1cc[nH+]cc1"))
    assert graph.atomic_number.tolist() == [6, 6, 6, 7, 6, 6]
    assert words(graph.atom_features[3].tolist(), ATOM_VOCABULARIES) == {
        "chirality": "UNSPECIFIED",
        "degree": "3",
        "formal_charge": "1",
        "num_hydrogens": "1",
        "radical_electrons": "0",
        "hybridization": "SP2",
        "is_aromatic": "True",
        "is_in_ring": "True",
    }


def test_stereo_of_atoms_and_bonds() -> None:
    mirror = [molecule_graph(Chem.MolFromSmiles(smiles)) for smiles in ("C[C@H](N)O", "C[C@@H](N)O")]
    assert {ATOM_VOCABULARIES["chirality"][graph.atom_features[1, 0]] for graph in mirror} == {
        "TETRAHEDRAL_CW",
        "TETRAHEDRAL_CCW",
    }
    for smiles, stereo in (("F/C=C/F", "E"), ("F/C=C\\F", "Z"), ("FC=CF", "NONE")):
        graph = molecule_graph(Chem.MolFromSmiles(smiles))
        assert words(graph.bond_features[1].tolist(), BOND_VOCABULARIES)["stereo"] == stereo


def test_what_no_list_holds_takes_the_last_code() -> None:
    dative = molecule_graph(Chem.MolFromSmiles("[NH3]->[Zn+2]"))
    assert words(dative.bond_features[0].tolist(), BOND_VOCABULARIES)["bond_type"] == "misc"
    xenon = molecule_graph(Chem.MolFromSmiles("[U+6]"))
    assert words(xenon.atom_features[0].tolist(), ATOM_VOCABULARIES)["formal_charge"] == "misc"


def test_a_molecule_without_bonds_has_empty_columns_of_the_right_width() -> None:
    graph = molecule_graph(Chem.MolFromSmiles("C"))
    assert graph.bond_index.shape == (0, 2)
    assert graph.bond_features.shape == (0, 3)


def test_heavy_atoms_have_the_same_features_with_hydrogens_as_atoms() -> None:
    molecule = Chem.MolFromSmiles("CC(=O)N[C@@H](C)O")
    with_hydrogens = molecule_graph(Chem.AddHs(molecule))
    heavy = molecule.GetNumAtoms()
    assert (with_hydrogens.atom_features[:heavy] == molecule_graph(molecule).atom_features).all()
    assert set(with_hydrogens.atomic_number[heavy:].tolist()) == {1}
