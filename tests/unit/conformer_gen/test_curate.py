"""Which rows become molecules, in which form, and on which side of the split."""

import numpy as np
import pytest

from conformer_gen.curate import CurateConfig, Curated, Rejected, choose_valid, curate_molecule, first_occurrences
from conformer_gen.embed import stable_hash
from conformer_gen.sources.molecule import SourceMolecule


def curate(smiles: str, **keys: int) -> Curated | Rejected:
    return curate_molecule(SourceMolecule(id="x", smiles=smiles), CurateConfig(**keys))


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("OCC", "CCO"),
        ("[Na+].[O-]C(=O)c1ccccc1", "O=C([O-])c1ccccc1"),
        ("[H]C([H])([H])C", "CC"),
        ("[2H]C", "C"),
        ("[CH3:7][OH:2]", "CO"),
        ("CCO.CCN", "CCN"),
        ("CCN.CCO", "CCN"),
    ],
)
def test_one_form_for_one_molecule(given: str, canonical: str) -> None:
    result = curate(given)
    assert isinstance(result, Curated)
    assert result.smiles == canonical


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("not a molecule", "not_parsed"),
        ("C1CC", "not_parsed"),
        ("", "empty"),
        ("C(C)(C)(C)(C)C", "not_sanitised"),
        ("*CCO", "dummy_atom"),
        ("[H][H]", "no_heavy_atom"),
        ("C" * 21, "too_many_atoms"),
    ],
)
def test_what_is_no_molecule_is_rejected_with_its_reason(given: str, reason: str) -> None:
    result = curate(given, max_atoms=20)
    assert isinstance(result, Rejected)
    assert result.reason == reason
    assert result.detail


def test_the_scaffold_forgets_side_chains_and_stereo() -> None:
    scaffolds = {
        result.scaffold_smiles
        for smiles in ("CC[C@H]1CCCCO1", "C[C@@H]1CCCCO1", "O1CCCCC1")
        if isinstance(result := curate(smiles), Curated)
    }
    assert scaffolds == {"C1CCOCC1"}


def test_first_occurrences() -> None:
    keys = np.array([5, 3, 5, 9, 3], np.uint64)
    assert first_occurrences(keys).tolist() == [True, True, False, True, False]


def test_validation_takes_whole_scaffolds_up_to_its_budget() -> None:
    sizes = [200, 100, 30, *range(1, 12), *[1] * 300]
    groups = np.repeat(np.arange(len(sizes), dtype=np.uint64), sizes)
    chosen = choose_valid(groups, 0.05, seed=0)
    taken = int(np.isin(groups, chosen).sum())
    assert taken == round(0.05 * len(groups))
    assert not {0, 1} & set(chosen.tolist())  # larger than the budget allows
    assert choose_valid(np.random.default_rng(0).permutation(groups), 0.05, seed=0).tolist() == chosen.tolist()
    assert choose_valid(groups, 0.05, seed=1).tolist() != chosen.tolist()


@pytest.mark.parametrize("groups", [[], [4], [4, 4, 4]])
def test_one_scaffold_alone_stays_in_train(groups: list[int]) -> None:
    assert choose_valid(np.array(groups, np.uint64), 0.05, seed=0).tolist() == []


def test_two_molecules_still_give_one_for_validation() -> None:
    assert len(choose_valid(np.array([4, 5], np.uint64), 0.05, seed=0)) == 1
    assert len(choose_valid(np.array([4, 5], np.uint64), 0.0, seed=0)) == 0


def test_hashes_are_the_same_on_every_machine_and_version() -> None:
    assert stable_hash("CCO") == 14074757553414938733
    assert stable_hash(0, 5) == 8464772043893310980
