"""The floors of the builder: a floor imports itself and those above it in the list, and needs no code of the others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

BUILDER = Path(__file__).resolve().parents[3] / "conformer_gen"
CONFORMERS = "conformer_gen.chemistry.conformers"
# A molecule's way from the source to the store.
FLOORS = ["sources", "chemistry", "config", "selection", "report", "run", "build"]


def floors_imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("conformer_gen.")}


def test_no_floor_imports_one_below_it() -> None:
    for path in sorted(BUILDER.rglob("*.py")):
        floor = path.relative_to(BUILDER).parts[0].removesuffix(".py")
        if floor == "__init__":
            continue
        below = set(FLOORS[FLOORS.index(floor) + 1 :])
        assert not floors_imported(path) & below, f"{path} imports {floors_imported(path) & below}"


@pytest.mark.parametrize(
    ("module", "unneeded"),
    [
        ("conformer_gen.config", ["rdkit", "ray"]),  # --help and a wrong setting need neither
        ("conformer_gen.chemistry.identity", ["rdkit", "numpy"]),
        (
            "conformer_gen.selection.selection_passes",
            [CONFORMERS, "conformer_gen.run", "ray"],
        ),
        ("conformer_gen.selection.exclusions", [CONFORMERS, "conformer_gen.run"]),
        ("conformer_gen.run.driver", ["ray", "torch"]),
    ],
)
def test_a_module_leaves_alone_what_it_does_not_need(module: str, unneeded: list[str]) -> None:
    script = f"import sys, {module}; print([name for name in {unneeded} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=BUILDER.parent
    )
    assert done.stdout.strip() == "[]"
