"""From SMILES as users write them to molecules in a store: which rows share one, which have none and why."""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conformer_gen.chemistry.identity import stable_hash
from conformer_gen.run import driver
from unimol_scale.downstream.data import conformer_cache
from unimol_scale.downstream.data.molecules import prepare, prepare_store
from unimol_scale.downstream.data.skipped_rows import Skipped, refuse_skipped
from unimol_scale.errors import SourceError, StoreError
from unimol_scale.store.schema import ConformerOrigin
from unimol_scale.store.shards import open_store

PHENOL = ("Oc1ccccc1", "c1ccccc1O", "[Na+].c1ccccc1O")  # one molecule, written in three ways
NO_CONFORMER = "N#[C][Co]([C]#N)([C]#N)([C]#N)([C]#N)[C]#N"


@pytest.fixture
def rows(tmp_path):
    def prepared(*smiles, geometry=True, max_atoms=None, cache="cache"):
        return prepare(smiles, cache=tmp_path / cache, geometry=geometry, max_atoms=max_atoms, workers=1)

    return prepared


def test_rows_of_one_molecule_share_one_place_and_keep_their_own_order(rows):
    made = rows("CCO", *PHENOL, "OCC")
    assert made.position_M.tolist() == [0, 1, 1, 1, 0]
    assert made.smiles == ("CCO", "Oc1ccccc1", "Oc1ccccc1", "Oc1ccccc1", "CCO")
    assert made.split.smiles(made.position_M) == list(made.smiles)
    assert made.key_M.tolist() == [stable_hash(smiles) for smiles in made.smiles]
    assert made.scaffold_smiles == ("", "c1ccccc1", "c1ccccc1", "c1ccccc1", "")
    assert made.scaffold_M.tolist() == [stable_hash(smiles) for smiles in made.scaffold_smiles]
    assert made.skipped == ()
    assert made.split.gather(made.position_M).num_atoms.tolist() == [3, 7, 7, 7, 3]


def test_rows_without_a_molecule_say_why_and_where(rows):
    made = rows("", "CCO", "this is none", "C1CC", NO_CONFORMER, "C" * 20, "CÄ", "*C", max_atoms=15)
    reasons = {skipped.row: skipped.reason for skipped in made.skipped}
    assert reasons == {
        0: "empty", 2: "not_parsed", 3: "not_parsed", 4: "no_conformer", 5: "too_many_atoms", 6: "unreadable_row",
        7: "dummy_atom",
    }  # fmt: skip
    assert all(skipped.detail for skipped in made.skipped)
    assert [skipped.smiles for skipped in made.skipped][3] == NO_CONFORMER
    assert made.position_M.tolist() == [-1, 0, -1, -1, -1, -1, -1, -1]
    assert made.smiles[4] == made.scaffold_smiles[4] == ""
    assert made.key_M[4] == made.scaffold_M[4] == 0
    assert len(made.split) == 1


@pytest.mark.parametrize("smiles", [(), ("", "none"), (NO_CONFORMER,)])
def test_rows_may_have_no_molecule_at_all(rows, smiles):
    made = rows(*smiles)
    assert len(made.split) == 0
    assert len(made.skipped) == len(smiles)
    assert made.position_M.tolist() == [-1] * len(smiles)


def test_a_radical_is_taken_at_its_word(rows):
    assert rows("C[CH2]").skipped == ()


def test_the_second_time_nothing_is_built(rows, monkeypatch):
    first = rows("CCO", NO_CONFORMER, *PHENOL)
    monkeypatch.setattr(conformer_cache, "_build", None)
    again = rows(PHENOL[1], "OCC", NO_CONFORMER)
    assert again.split.smiles(again.position_M[:2]) == ["Oc1ccccc1", "CCO"]
    assert again.skipped == (Skipped(row=2, smiles=NO_CONFORMER, **vars_of(first.skipped[0])),)
    with pytest.raises(TypeError):
        rows("CCO", "CCC")


def count_made(monkeypatch):
    """Return a list that grows by the SMILES of every molecule that a conformer is made for."""
    made, generate = [], conformer_cache.generate_conformers

    def counted(molecule, *rest):
        made.append(molecule.smiles)
        return generate(molecule, *rest)

    monkeypatch.setattr(conformer_cache, "generate_conformers", counted)
    return made


def test_of_another_table_only_the_molecules_that_no_earlier_one_had_get_conformers(rows, monkeypatch, tmp_path):
    made = count_made(monkeypatch)
    rows("CCO", NO_CONFORMER, "CCN")
    del made[:]
    again = rows("CCCl", "CCN", "OCC", NO_CONFORMER, "CCBr")
    assert made == ["CCCl", "CCBr"]
    assert again.split.smiles(again.position_M[[0, 1, 2, 4]]) == ["CCCl", "CCN", "CCO", "CCBr"]
    assert [(skipped.row, skipped.reason) for skipped in again.skipped] == [(3, "no_conformer")]
    assert int(sum(again.split.entry.size_histogram.values())) == len(again.split) == 4
    alone = rows("CCCl", "CCN", "OCC", NO_CONFORMER, "CCBr", cache="fresh")
    for column in ("coordinates", "atomic_number", "bond_features"):
        assert np.array_equal(
            getattr(again.split.gather(again.position_M[[0, 1, 2, 4]]), column, None),
            getattr(alone.split.gather(alone.position_M[[0, 1, 2, 4]]), column, None),
        )
    del made[:]
    rows("CCBr", "CCO", "[Na+].CCN", max_atoms=50)  # how molecules are chosen does not change their conformers
    assert made == []


def test_molecules_that_all_fail_are_not_tried_again(rows, monkeypatch):
    made = count_made(monkeypatch)
    for _ in range(2):
        assert rows(NO_CONFORMER).skipped[0].reason == "no_conformer"
    assert len(made) == 1


def test_sets_of_an_older_cache_are_left_alone_and_a_lost_store_says_what_to_delete(rows, tmp_path):
    (tmp_path / "cache" / "0123456789abcdef01234567" / "store").mkdir(parents=True)
    rows("CCO")
    (store,) = (tmp_path / "cache").glob("*-*/store")
    (store / "manifest.json").unlink()
    with pytest.raises(StoreError, match=f"delete {store.parent}, a set of the conformer cache"):
        rows("CCO")


def test_who_waits_long_for_conformers_is_told_that_2d_needs_none(rows, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    told = threading.Event()
    generate = conformer_cache.generate_conformers

    def slow(*args):
        assert told.wait(60)
        return generate(*args)

    monkeypatch.setattr(conformer_cache, "SLOW_S", 0.01)
    monkeypatch.setattr(conformer_cache, "generate_conformers", slow)
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(rows, "CCO")
        until = time.monotonic() + 60
        while "--inputs 2d a fine-tuning and its predictions need none" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
        told.set()
        pending.result()
    assert "--inputs 2d a fine-tuning and its predictions need none" in caplog.text
    caplog.clear()
    rows("CCN", geometry=False)
    assert "2D" not in caplog.text


@pytest.mark.parametrize(
    ("smiles", "changes"),
    [
        ("CCO", ""),
        ("OCC", ""),
        ("C1.C1", ""),  # a bond across the dot: one molecule
        ("[13CH3]O", ""),
        ("CCN.Cl", "largest fragment kept: CCN; left out: Cl"),
        ("[Na+].CC(=O)[O-]", "largest fragment kept: CC(=O)[O-] (charge -1); left out: [Na+]"),
        ("CCCN.CCCN.OS(=O)(=O)O", "largest fragment kept: O=S(=O)(O)O; left out: CCCN (2 times)"),
        (
            "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1",
            "largest fragment kept: c1cc[cH-]c1 (charge -1); left out: [Fe+2], c1cc[cH-]c1",
        ),
        ("[CH3:1][OH:2]", "atom maps removed"),
    ],
)
def test_what_was_done_to_a_molecule_is_said(rows, smiles, changes):
    made = rows(smiles, geometry=False)
    assert made.changes == (changes,)
    assert ("1 of 1 rows have several fragments" in made.describe_changes()) is ("fragment" in changes)


def test_rows_of_several_fragments_can_be_refused(tmp_path):
    smiles = ["CCO", "CCN.Cl", "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1"]
    made = prepare(smiles, cache=tmp_path, geometry=False, max_atoms=None, workers=1, fragments="reject")
    assert [(one.row, one.reason) for one in made.skipped] == [(1, "several_fragments"), (2, "several_fragments")]
    assert "2 fragments; fragments=largest takes one" in made.skipped[0].detail


def vars_of(skipped):
    return {"reason": skipped.reason, "detail": skipped.detail}


def test_a_model_of_the_graph_needs_no_conformer(rows, tmp_path):
    made = rows("CCO", NO_CONFORMER, geometry=False)
    assert made.skipped == ()
    columns = made.split.gather(made.position_M)
    assert set(columns.conformer_origin.tolist()) == {ConformerOrigin.FLAT}
    assert not columns.coordinates[:, 2].any()
    (store,) = (tmp_path / "cache").glob("*/store")
    assert open_store(store).manifest.conformer_recipe["method"] == "2D depiction"


def test_what_was_cut_off_is_finished_the_next_time(rows, monkeypatch):
    def killed(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "write_manifest", killed)
    with pytest.raises(KeyboardInterrupt):
        rows("CCO", "CCN")
    monkeypatch.undo()
    assert rows("CCO", "CCN").position_M.tolist() == [0, 1]


def test_of_two_that_want_the_same_molecules_one_waits_for_the_other(rows, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    build, begun, go_on, builds = conformer_cache._build, threading.Event(), threading.Event(), []

    def slow(*args: object):
        builds.append(threading.get_ident())
        begun.set()
        assert go_on.wait(60)
        build(*args)

    monkeypatch.setattr(conformer_cache, "_build", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(rows, "CCO", "CCN")
        assert begun.wait(60)
        second = pool.submit(rows, "CCN", "CCO")
        until = time.monotonic() + 60
        while "waiting for another process" not in caplog.text and time.monotonic() < until:
            time.sleep(0.01)
        go_on.set()
        assert first.result().position_M.tolist() == second.result().position_M.tolist()[::-1]
    assert "waiting for another process" in caplog.text
    assert len(builds) == 1


@pytest.mark.ray
def test_few_and_many_molecules_get_the_same_records(rows, monkeypatch):
    smiles = ("CCO", *PHENOL, NO_CONFORMER, "C[C@H](N)C(=O)O", "CC(=O)Nc1ccc(O)cc1")
    here = rows(*smiles)
    monkeypatch.setattr(conformer_cache, "FEW", 0)
    on_ray = rows(*smiles, cache="other")
    assert here.position_M.tolist() == on_ray.position_M.tolist()
    assert here.skipped == on_ray.skipped
    (mine,), (theirs,) = here.split.entry.shards, on_ray.split.entry.shards
    assert mine == theirs  # every byte


def test_all_molecules_of_a_store_are_rows_train_before_valid(sample_store):
    store = open_store(sample_store)
    made = prepare_store(sample_store)
    expected = [text for name in ("train", "valid") for text in store.split(name).column("smiles").to_pylist()]
    assert len(store.split("valid")) > 0
    assert list(made.smiles) == expected
    assert made.split.smiles(made.position_M) == expected
    assert made.key_M.tolist() == [stable_hash(text) for text in expected]
    assert made.scaffold_M.tolist() == [stable_hash(text) for text in made.scaffold_smiles]
    assert made.split.num_atoms.max() == max(int(size) for size in made.split.entry.size_histogram)


def test_skipped_rows_are_named_as_a_user_counts_them():
    skipped = [Skipped(row=row, smiles="x", reason="not_parsed", detail="no SMILES") for row in range(1, 9)]
    with pytest.raises(
        SourceError, match=r"f\.csv: 8 of 10 rows .* row 2 'x': not_parsed \(no SMILES\).* 3 more\. Mend"
    ):
        refuse_skipped(skipped, 10, "f.csv", "Mend them")
    refuse_skipped([], 10, "f.csv", "Mend them")


def test_arrays_are_of_the_stated_types(rows):
    made = rows("CCO")
    assert (made.position_M.dtype, made.key_M.dtype, made.scaffold_M.dtype) == (np.int64, np.uint64, np.uint64)


def test_rows_without_a_molecule_are_refused_before_any_conformer_is_made(tmp_path):
    def refuse(skipped):
        refuse_skipped(skipped, 2, "table.csv", "Mend them")

    with pytest.raises(SourceError, match=r"table.csv: 1 of 2 rows .* row 2 'nonsense'"):
        prepare(["CCO", "nonsense"], cache=tmp_path, geometry=True, max_atoms=None, workers=None, refuse=refuse)
    assert not list(tmp_path.iterdir())


def test_molecules_that_differ_in_isotopes_bridges_and_stereo_of_an_axis_are_not_merged(rows):
    binol = "Oc1ccc2ccccc2c1-c1c(O)ccc2ccccc12"
    given = ("[2H]C([2H])([2H])Oc1ccccc1", "COc1ccccc1", f"{binol} |wU:10.10|", f"{binol} |wD:10.10|", "F[H-]F")
    made = rows(*given, geometry=False)
    assert made.skipped == ()
    assert len(set(made.position_M.tolist())) == len(set(made.key_M.tolist())) == 5
    assert made.scaffold_smiles[:2] == ("c1ccccc1", "c1ccccc1")
    assert made.split.gather(made.position_M).num_atoms.tolist() == [11, 8, 22, 22, 3]
    (skipped,) = rows("C[H+]", cache="other").skipped
    assert skipped.reason == "hydrogens_matter"
