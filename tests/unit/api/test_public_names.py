"""``import unimol_scale``: cheap, and every name that it offers is there, typed, and where it says."""

import ast
import importlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

import unimol_scale as us

REPOSITORY = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "rdkit", "ray", "deepspeed", "matplotlib")


def modules_after(code: str) -> set[str]:
    """Return the heavy libraries that a fresh process has imported after some code."""
    program = f"import sys; {code}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import unimol_scale", set()),
        ("import unimol_scale as us; dir(us), us.__all__, us.__version__, us.ConfigError", set()),
        ("import unimol_scale as us; us.open_store, us.build_store, us.fit_scaling_law", set()),
        ("import conformer_gen", set()),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(code, expected):
    assert modules_after(code) == expected


def test_a_name_that_there_is_not_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = us.nothing
    assert not hasattr(us, "nothing")


def test_every_name_is_seen_by_people_and_by_type_checkers_alike():
    tree = ast.parse((REPOSITORY / "unimol_scale" / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    imported = {
        alias.name: node.module for node in typed.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {*imported, "__version__"} == set(us.__all__)
    assert set(us.__all__) <= set(dir(us))
    assert all(name in us.__all__ or name.startswith("__") for name in dir(us)), "completion shows nothing else"
    for name, module in imported.items():
        assert getattr(us, name) is getattr(importlib.import_module(module), name)
    for name in us.__all__:
        assert getattr(us, name).__doc__


def test_the_version_is_that_of_the_project_file():
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    assert f'version = "{us.__version__}"' in re.findall(r'^version = ".*"$', text, re.MULTILINE)


@pytest.mark.parametrize("name", ["unimol_scale", "conformer_gen"])
def test_messages_that_nobody_asked_for_go_nowhere(name):
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger(name).handlers)


def test_errors_have_one_root_that_a_program_can_catch():
    for name in ("CheckpointError", "ConfigError", "ConformerError", "RunError", "SourceError", "StoreError"):
        assert issubclass(getattr(us, name), us.UnimolScaleError)
