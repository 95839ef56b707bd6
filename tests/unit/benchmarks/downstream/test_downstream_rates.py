"""Starts that are compared choose among the same learning rates, whatever more one of them has finished."""

import argparse

import pytest

from benchmarks.downstream import gains


@pytest.fixture
def rates(monkeypatch, tmp_path):
    """Say which rates are taken, when these fine-tunings of BACE are finished: (model, from scratch) → rates."""
    monkeypatch.setattr(gains, "twin", lambda model: model[0])  # a1 and a2 have the same dimensions
    options = argparse.Namespace(
        moleculenet=tmp_path,
        qm9=tmp_path,
        seeds=3,
        epochs=None,
        work=tmp_path,
        cache=tmp_path,
        split="scaffold",
        folds=None,
        repeats=1,
    )

    def taken(models, finished):
        for (model, scratch), some in finished.items():
            for rate in some:
                folder = gains.settings(options, "BACE", model, 1.0, reinitialise=scratch, rate=rate).folder
                folder.mkdir()
                (folder / "results.json").write_text("{}")
        return gains.finished_rates(options, "BACE", models, 1.0)

    return taken


def test_what_one_start_lacks_is_not_taken_of_the_others(rates):
    both = (5e-4, 1e-4)
    found = rates(["a1", "a2", "b1"], {("a1", False): both, ("a1", True): both, ("a2", False): (5e-4,)})
    assert found == {"a1": (5e-4,), "a2": (5e-4,), "b1": ()}


def test_a_start_with_other_dimensions_is_compared_with_nothing_of_these(rates):
    both = (5e-4, 1e-4)
    found = rates(["a1", "b1"], {("a1", False): both, ("a1", True): both, ("b1", False): both, ("b1", True): (1e-4,)})
    assert found == {"a1": both, "b1": (1e-4,)}
