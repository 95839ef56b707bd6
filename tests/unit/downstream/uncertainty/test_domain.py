"""The domain of a model: the nearest training molecule, and where the domain ends."""

import numpy as np
import pytest

from unimol_scale.downstream.uncertainty.domain import (
    domain_threshold,
    fingerprints,
    in_domain,
    judged_places,
    nearest_by_fingerprint,
    nearest_by_vector,
)
from unimol_scale.downstream.uncertainty.found_coverage import FoundCoverage

KNOWN = ["CCO", "CCCO", "c1ccccc1O", "c1ccccc1N"]


def test_the_nearest_molecule_is_the_same_one_if_it_is_there():
    known = fingerprints(KNOWN)
    place_R, similarity_R = nearest_by_fingerprint(fingerprints(["Oc1ccccc1", "OCC", "no molecule"]), known)
    assert place_R.tolist() == [2, 0, -1]
    assert similarity_R[:2].tolist() == [1.0, 1.0]
    assert np.isnan(similarity_R[2])


def test_a_training_molecule_is_not_its_own_neighbour():
    known = fingerprints(KNOWN)
    place_R, similarity_R = nearest_by_fingerprint(known, known, np.arange(4))
    assert place_R.tolist() == [1, 0, 3, 2]
    assert (similarity_R < 1.0).all()


def test_a_training_molecule_that_cannot_be_read_is_nobodys_neighbour():
    known = fingerprints(["no molecule", "CCO"])
    place_R, _ = nearest_by_fingerprint(fingerprints(["CCO", "CCN"]), known, np.array([1, 0]))
    assert place_R.tolist() == [-1, 1]
    assert nearest_by_fingerprint(fingerprints(["CCO"]), [])[0].tolist() == [-1]


def test_vectors_are_compared_by_their_direction_whatever_the_length_and_the_block():
    random = np.random.default_rng(0)
    known_ND, vector_RD = random.normal(size=(50, 8)), random.normal(size=(2100, 8))
    expected = (vector_RD / np.linalg.norm(vector_RD, axis=1)[:, None]) @ (
        known_ND / np.linalg.norm(known_ND, axis=1)[:, None]
    ).T
    found = nearest_by_vector(3.0 * vector_RD, known_ND.astype(np.float16))
    np.testing.assert_allclose(found, expected.max(1), atol=2e-3)
    own = nearest_by_vector(known_ND, known_ND, np.arange(50))
    np.fill_diagonal(cosine := (known_ND @ known_ND.T) / np.outer(*[np.linalg.norm(known_ND, axis=1)] * 2), -1)
    np.testing.assert_allclose(own, cosine.max(1), atol=1e-5)
    assert np.isnan(nearest_by_vector(known_ND[:1], known_ND[:1], np.zeros(1, np.int64))).all()


def test_one_training_molecule_in_twenty_lies_outside_of_the_domain_of_the_others():
    similarity_N = np.random.default_rng(1).uniform(size=2000)
    inside_N = in_domain([similarity_N], [domain_threshold(similarity_N)])
    assert inside_N.mean() == pytest.approx(0.95, abs=0.001)
    assert domain_threshold(np.full(3, np.nan)) is None


def test_every_similarity_must_be_large_enough_and_a_missing_one_is_not():
    fingerprint_R, vector_R = np.array([0.9, 0.9, 0.1, np.nan]), np.array([0.9, 0.1, 0.9, 0.9])
    assert in_domain([fingerprint_R, vector_R], [0.5, 0.5]).tolist() == [True, False, False, False]
    assert in_domain([fingerprint_R, vector_R], [0.5, None]).tolist() == [True, True, False, False]


def test_the_percentile_is_of_a_fixed_sample_of_many_molecules():
    assert judged_places(10, 10, 2000).tolist() == list(range(10))
    many = judged_places(10_000, 10_000, 2000)
    assert len(np.unique(many)) == 2000
    np.testing.assert_array_equal(many, judged_places(10_000, 10_000, 2000))
    assert len(judged_places(10_000, 10_000_000, 10_000)) == 500
    assert len(judged_places(10_000, 1000, 10_000)) == 10_000


def test_a_coverage_is_told_from_the_nominal_one_only_beyond_chance():
    found = [FoundCoverage.of(np.arange(100) < held) for held in (70, 88, 100)]
    assert [one.against(0.9) for one in found] == ["less", "as promised", "more"]
    assert found[0].share == 0.7
    assert found[1].low < 0.88 < found[1].high
