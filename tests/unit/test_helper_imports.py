"""Tests and benchmarks find one another by one name, such as tests.helpers.x or benchmarks.x, from the root."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FILES = [path for folder in ("tests", "benchmarks") for path in sorted((REPOSITORY / folder).rglob("*.py"))]
HELPERS = {path.stem for path in (REPOSITORY / "tests" / "helpers").glob("*.py")}
MODULES = {path.stem for path in (REPOSITORY / "benchmarks").rglob("*.py")}


def test_no_test_and_no_benchmark_changes_where_modules_are_looked_for():
    changes = {"sys.path.insert", "sys.path.append", "sys.path.extend"}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.Call) and ast.unparse(node.func) in changes), f"{path}:{node.lineno}"
            # A folder of the test's own, with the modules of somebody else, may be prepended; one of ours may not.
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(".syspath_prepend"):
                of_ours = any(word in ast.unparse(node) for word in ("__file__", "REPOSITORY"))
                assert not of_ours, f"{path}:{node.lineno}"


def test_helpers_and_benchmarks_are_imported_from_the_root():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                first = (node.module or "").split(".")[0]
                assert not node.level, f"{path}:{node.lineno} imports relatively"
                assert first not in (HELPERS | MODULES | {"helpers"}) - {"__init__", "__main__"}, (
                    f"{path}:{node.lineno}"
                )
