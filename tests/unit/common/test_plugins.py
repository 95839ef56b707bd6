"""Code by its name: what is said when it is not there, is no such thing, or is named by somebody else than the user."""

import importlib.util
import re
import sys
from typing import get_args

import pytest

from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.registry import SOURCES
from unimol_scale.common.plugins import is_reference, load, must_be_named
from unimol_scale.downstream.config import FinetuneConfig, Task
from unimol_scale.downstream.metric import TASKS
from unimol_scale.downstream.registry import METRICS
from unimol_scale.engine.log.registry import SINKS
from unimol_scale.engine.run.run_config import LogConfig
from unimol_scale.errors import ConfigError
from unimol_scale.objectives.config import ObjectiveConfig
from unimol_scale.objectives.registry import OBJECTIVES
from unimol_scale.scaling.law.registry import LAWS

REGISTRIES = {"source": SOURCES, "objective": OBJECTIVES, "law": LAWS, "metric": METRICS, "log": SINKS}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write mine.py into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "nothing")  # what is changed of the path is taken back
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def write(text):
        (tmp_path / "mine.py").write_text(text)
        sys.modules.pop("mine", None)

    yield write
    sys.modules.pop("mine", None)


OPTIONAL = ("wandb", "mlflow")  # names of entries that are names of libraries, too


@pytest.mark.parametrize("kind", REGISTRIES)
def test_every_name_stands_for_an_entry_and_is_listed(kind):
    registry = REGISTRIES[kind]
    for name in registry:
        if name in OPTIONAL and importlib.util.find_spec(name) is None:
            with pytest.raises(ConfigError, match=rf"pip install 'unimol-scale\[{name}\]'"):
                registry.entry(name)
        else:
            assert registry.entry(name).name == name
        assert name in registry.listed
    with pytest.raises(
        ConfigError, match=rf"mine: unknown {kind} 'nosuch'; .*{next(iter(registry))}.* package\.module:Name"
    ):
        registry.check("nosuch", "mine")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("source", SourceConfig), ("objective", ObjectiveConfig), ("metric", FinetuneConfig), ("log", LogConfig)],
)
def test_the_settings_say_which_names_there_are(kind, settings):
    # What --help-settings prints is the docstring.
    assert all(name in settings.__doc__ for name in (*REGISTRIES[kind], "package.module:"))


def test_metrics_know_the_tasks_of_a_finetuning():
    assert get_args(Task) == TASKS


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("a:B", True),
        ("a.b:C.d", True),
        ("a.b", False),
        ("a.py:B", False),
        ("a/b:C", False),
        ("a:", False),
        (None, False),
    ],
)
def test_what_names_code(text, valid):
    assert is_reference(text) is valid


def test_a_file_in_the_current_folder_needs_no_installation(module):
    module("ANSWER = 42\n")
    assert load("mine:ANSWER") == 42


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("", "nosuch.mine:X", "there is no module 'nosuch'.*current folder (.*{folder}.*PYTHONPATH"),
        ("Answer = 42\n", "mine:Anser", "module mine has no 'Anser'; did you mean 'Answer'"),
        ("import nosuch\n", "mine:X", r"mine cannot be imported: No module named 'nosuch' \(.*mine\.py, line 1"),
        ("1 / 0\n", "mine:X", r"mine cannot be imported: ZeroDivisionError: division by zero \(.*mine\.py, line 1"),
        ("def f(:\n", "mine:X", r"mine cannot be imported: SyntaxError: .*mine\.py, line 1"),
        ("raise SystemExit('no')\n", "mine:X", "mine cannot be imported: SystemExit: no"),
    ],
)
def test_what_cannot_be_imported_is_told(module, tmp_path, text, reference, message):
    module(text)
    with pytest.raises(ConfigError, match=message.replace("(.*{folder}", re.escape(f"({tmp_path}"))):
        load(reference)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("source", "X = 3", "must be a conformer_gen.sources.source.Source"),
        ("source", "def X(): return 3", "or a function without arguments that returns one, not 3"),
        ("objective", "class X: pass", "must be a class derived from unimol_scale.objectives.base.Objective"),
        (
            "objective",
            "from unimol_scale.objectives.base import Objective\nclass X(Objective):\n heads = weights = None",
            "lacks corrupt, score",
        ),
        (
            "objective",
            "from unimol_scale.objectives.denoise import DenoiseObjective\nclass X(DenoiseObjective):\n"
            " def weights(self): return {}",
            "its weights must be a property: write @property above it",
        ),
        (
            "objective",
            "from unimol_scale.objectives.denoise import DenoiseObjective\nclass X(DenoiseObjective):\n"
            " def __init__(self): pass",
            "it is called with only its Config, but its __init__ does not accept that",
        ),
        (
            "law",
            "from unimol_scale.scaling.law.laws import Chinchilla\nclass X(Chinchilla):\n def terms(self): return ()",
            "its formula and terms must be properties",
        ),
        (
            "law",
            "from unimol_scale.scaling.law.laws import Chinchilla\nclass X(Chinchilla):\n def __init__(self, p): pass",
            "it must take no arguments, or only variable",
        ),
        (
            "metric",
            "def X_score(labels): return 0.0\nX = X_score",
            "is called with (labels, predictions), but does not accept",
        ),
        ("law", "def X(): pass", "must be a class derived from unimol_scale.scaling.law.laws.Law"),
        (
            "law",
            "from unimol_scale.scaling.law.laws import Law\nclass X(Law):\n name = 'x'",
            "lacks formula, terms, source",
        ),
        ("metric", "X = 3", "must be a unimol_scale.downstream.metric.Metric"),
        (
            "metric",
            "def X(labels, predictions): return 0.0",
            "it is unknown whether higher or lower values of 'X' are better",
        ),
        ("log", "class X:\n def event(self, event): pass", "lacks the methods close"),
        ("log", "X = 3", "takes a unimol_scale.engine.log.sinks.SinkStart"),
    ],
)
def test_what_is_no_such_thing_is_told_what_it_lacks(module, kind, text, message):
    module(text)
    with pytest.raises(ConfigError, match=f"the {kind} mine:X: .*{re.escape(message)}"):
        REGISTRIES[kind].entry("mine:X")


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ("Term(coefficient='A', exponent='a', variable='Q')", "is in 'Q'; the columns of runs are N, D, C"),
        (
            "Term(coefficient='A', exponent='a', variable='N'), Term(coefficient='A')",
            "every parameter needs its own name",
        ),
        ("Term(coefficient='E')", "none of its terms has a variable"),
        ("Term(coefficient='E'), Term(coefficient='F')", "at most one term may be constant"),
        ("Term(coefficient='A', variable='N')", "both a variable and an exponent or neither"),
    ],
)
def test_a_law_that_cannot_be_fitted_is_told_why(module, terms, message):
    module(
        "from unimol_scale.scaling.law.laws import Law, Term\n"
        f"class X(Law):\n name = source = formula = 'x'\n terms = ({terms},)\n"
    )
    with pytest.raises(ConfigError, match=message):
        LAWS.entry("mine:X")


def test_code_that_a_folder_names_must_be_named_by_the_user_too():
    must_be_named(["denoise", "mine:X"], ["mine:X"], "--objective {}")
    with pytest.raises(ConfigError, match="only if you name it yourself: add --objective mine:X"):
        must_be_named(["mine:X"], ["denoise"], "--objective {}")
