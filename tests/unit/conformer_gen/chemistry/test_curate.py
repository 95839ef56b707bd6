"""Which rows become molecules, and in which form."""

import pytest

from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.chemistry.curate import Curated, Rejected, curate_molecule
from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.sources.molecule import SourceMolecule
from unimol_scale.errors import ConfigError
from unimol_scale.store.schema import ConformerOrigin


def curate(smiles: str, **keys: object) -> Curated | Rejected:
    return curate_molecule(SourceMolecule(id="x", smiles=smiles), CurateConfig(**keys))


@pytest.mark.parametrize(
    ("given", "canonical"),
    [
        ("OCC", "CCO"),
        ("[Na+].[O-]C(=O)c1ccccc1", "O=C([O-])c1ccccc1"),
        ("[H]C([H])([H])C", "CC"),
        ("[2H]C", "[2H]C"),
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


def test_a_record_without_atoms_costs_its_own_row_and_no_build() -> None:
    block = "\n  empty             3D\n\n  0  0  0  0  0  0  0  0  0  0999 V2000\nM  END\n"
    for origin in (ConformerOrigin.FILE, None):
        row = SourceMolecule(id="x", block=block, origin=origin)
        result = curate_molecule(row, CurateConfig())
        assert isinstance(result, Rejected)
        assert (result.reason, result.detail) == ("empty", "the row has no atoms")


def test_the_scaffold_forgets_side_chains_and_stereo() -> None:
    scaffolds = {
        result.scaffold_smiles
        for smiles in ("CC[C@H]1CCCCO1", "C[C@@H]1CCCCO1", "O1CCCCC1")
        if isinstance(result := curate(smiles), Curated)
    }
    assert scaffolds == {"C1CCOCC1"}


@pytest.mark.parametrize(
    "smiles",
    [
        "CCCCOC1=CC=C(NC[S](=O)=O)C=N1",  # of the NCI sample: a hydrogen forgotten
        "[I]1C2=C(C=CC=C2)C3=C1C=CC=C3",
        "[CH2]C.[Na+].[Cl-].O",
    ],
)
def test_a_neutral_radical_is_rejected_unless_radicals_are_kept(smiles: str) -> None:
    result = curate(smiles)
    assert isinstance(result, Rejected)
    assert result.reason == "radical"
    assert "1 unpaired" in result.detail
    assert isinstance(curate(smiles, radicals="keep"), Curated)


@pytest.mark.parametrize("smiles", ["C[CH+][CH]C", "O=C1O[Sn]OC1=O", "C[N+](C)(C)C", "[C-]#[O+]"])
def test_charged_radicals_metals_and_closed_shells_in_brackets_are_kept(smiles: str) -> None:
    assert isinstance(curate(smiles), Curated)


def test_a_salt_is_rejected_on_demand_and_one_fragment_is_not() -> None:
    result = curate("CC(=O)[O-].[Na+]", fragments="reject")
    assert isinstance(result, Rejected)
    assert result.reason == "several_fragments"
    assert isinstance(curate("CC(=O)O", fragments="reject"), Curated)


def test_a_row_that_could_not_be_read_says_why() -> None:
    result = curate_molecule(SourceMolecule(id="a.smi:truncated", problem="a.smi ends in mid-line"), CurateConfig())
    assert result == Rejected(reason="unreadable_row", detail="a.smi ends in mid-line")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"target": 10}, "both or neither"),
        ({"temperature": 0.005}, "both or neither"),
        ({"target": 0, "temperature": 1.0}, "target must be at least 1, got 0"),
        ({"target": 1, "temperature": 0.0}, "temperature must be above 0 and finite, got 0.0"),
        ({"target": 1, "temperature": float("nan")}, "temperature must be above 0 and finite, got nan"),
    ],
)
def test_sampling_needs_a_target_and_a_temperature(keys: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CurateConfig(**keys)


def test_hashes_are_the_same_on_every_machine_and_version() -> None:
    assert stable_hash("CCO") == 14074757553414938733
    assert stable_hash(0, 5) == 8464772043893310980
