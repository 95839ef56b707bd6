"""What several packages share depends on none of them, and is imported without torch."""

import ast
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
COMMON = REPOSITORY / "unimol_scale" / "common"
MODULES = sorted(
    ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
    for path in COMMON.rglob("*.py")
    if path.name != "__init__.py"
)
ALLOWED = ("unimol_scale.common", "unimol_scale.errors", "unimol_scale.config")


def test_common_imports_no_other_room() -> None:
    for module in MODULES:
        path = REPOSITORY / f"{module.replace('.', '/')}.py"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            ours = [name for name in names if name.startswith(("unimol_scale", "conformer_gen"))]
            assert all(name.startswith(ALLOWED) for name in ours), f"{path} imports {ours}"


def test_common_is_imported_without_torch_and_the_libraries_of_the_builder() -> None:
    code = (
        f"import sys, {', '.join(MODULES)}; print(*sorted({{'torch', 'ray', 'rdkit', 'deepspeed'}} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
