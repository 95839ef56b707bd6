"""The examples that the documentation shows do what they say, one after another, and nothing is printed."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import unimol_scale as us
from tests.helpers.doc_examples import ORDER

REPOSITORY = Path(__file__).resolve().parents[3]
FUNCTIONS = [name for name in us.__all__ if inspect.isfunction(getattr(us, name))]
ESTIMATORS = [name for name in us.__all__ if hasattr(getattr(us, name), "get_params")]


@pytest.mark.deepspeed
def test_every_example_gives_what_it_shows_in_silence(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.doc_examples"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_public_function_and_estimator_has_an_example_that_runs():
    assert sorted([*FUNCTIONS, *ESTIMATORS]) == sorted(ORDER)
    assert len(ESTIMATORS) == 3


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_docstring_of_an_estimator_says_what_it_learns_and_its_constructor_what_the_parameters_are(name):
    kind = getattr(us, name)
    for part in ("Attributes:", "Raises:", "Source:", "Example:"):
        assert f"\n{part}\n" in inspect.getdoc(kind), part
    for parameter in kind().get_params():
        assert f"\n    {parameter}: " in inspect.getdoc(kind.__init__), parameter
    for method in ("fit", "predict", "predict_proba", "transform", "score", "from_folder"):
        if hasattr(kind, method) and method not in ("fit", "score"):
            assert "\nRaises:\n" in inspect.getdoc(getattr(kind, method)), method


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_docstring_of_a_function_says_what_goes_in_what_comes_out_and_what_may_be_wrong(name):
    function = getattr(us, name)
    text = inspect.getdoc(function) or ""
    arguments = inspect.signature(function).parameters
    for part in (*(("Args:",) if arguments else ()), "Returns:", "Raises:", "Source:", "Example:"):
        assert f"\n{part}\n" in text, part
    for argument in arguments:
        assert f"\n    {argument}: " in text, argument
