"""The arrows of the house: data flows downward, and imports point the same way. Read from the code, nothing is run."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# From the top of the stream to its end; a room may import itself and the rooms before it.
ROOMS = ["errors", "config", "run_files", "common", "store", "data", "model", "objectives", "checkpoints", "engine"]
ROOMS += ["scaling", "downstream", "cli"]
# Planning and predictions need the model's counts, never its code.
SCALING_MAY_IMPORT = {"unimol_scale.model.presets", "unimol_scale.model.accounting"}
WITHOUT_TORCH = ["conformer_gen", "unimol_scale/store", "unimol_scale/scaling", "unimol_scale/config.py"]
WITHOUT_TORCH += ["unimol_scale/common/text/text_files.py", "unimol_scale/common/text/delimited.py"]
WITHOUT_TORCH += ["unimol_scale/common/text/json_lines.py", "unimol_scale/common/metrics_file.py"]
WITHOUT_TORCH += ["unimol_scale/cli/command_line.py", "unimol_scale/cli/settings_help.py"]
# What every command does before it imports torch.
WITHOUT_TORCH += [f"unimol_scale/common/{name}.py" for name in ("entry", "streams", "system_limits", "threads")]
ONLY_IN = {
    "rdkit": ["conformer_gen", "unimol_scale/downstream"],
    "ray": [
        "conformer_gen/run/ray_executor.py",
        "conformer_gen/run/ray_tasks.py",
        "conformer_gen/selection/ray_selection.py",
    ],
    "deepspeed": ["unimol_scale/engine/parallel/deepspeed_model.py", "unimol_scale/engine/parallel/ranks.py"],
    "nvmolkit": ["conformer_gen/chemistry/nvmolkit_engine.py"],
}


def sources() -> list[Path]:
    return sorted(
        p for folder in ("conformer_gen", "unimol_scale", "launch") for p in (REPOSITORY / folder).rglob("*.py")
    )


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def inside(path: Path, places: list[str]) -> bool:
    relative = path.relative_to(REPOSITORY).as_posix()
    return any(relative == place or relative.startswith(f"{place}/") for place in places)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_known_only_where_the_design_says(library):
    for path in sources():
        names = {name.split(".")[0] for name in imports(path)}
        assert library not in names or inside(path, ONLY_IN[library]), f"{path} imports {library}"


def test_rooms_without_torch_stay_without_torch():
    # Directly, or through a file of the project that imports it.
    with_torch = {path for path in sources() if "torch" in {name.split(".")[0] for name in imports(path)}}
    modules = {".".join(p.relative_to(REPOSITORY).with_suffix("").parts): p for p in with_torch}
    for path in sources():
        if inside(path, WITHOUT_TORCH):
            assert path not in with_torch, f"{path} imports torch"
            reached = [name for name in imports(path) if name in modules]
            assert not reached, f"{path} imports torch through {reached}"


def test_imports_inside_the_package_point_upstream():
    for path in sources():
        if not inside(path, ["unimol_scale"]) or path.name == "__init__.py":
            continue
        room = path.relative_to(REPOSITORY / "unimol_scale").parts[0].removesuffix(".py")
        for name in imports(path):
            parts = name.split(".")
            if parts[0] != "unimol_scale" or len(parts) < 2 or parts[1] not in ROOMS:
                continue
            if room == "scaling" and any(name.startswith(allowed) for allowed in SCALING_MAY_IMPORT):
                continue
            assert ROOMS.index(parts[1]) <= ROOMS.index(room), f"{path} imports {name} from downstream"


def test_scaling_shares_nothing_with_the_trainer_but_files():
    assert not imports(REPOSITORY / "unimol_scale" / "run_files.py"), "their names, and no code"
    for path in sources():
        if inside(path, ["unimol_scale/scaling"]):
            for name in imports(path):
                rooms = name.split(".")[1:2] if name.startswith("unimol_scale.") else []
                known = any(name.startswith(allowed) or allowed.startswith(name) for allowed in SCALING_MAY_IMPORT)
                assert not rooms or rooms[0] in ("errors", "config", "run_files", "common", "scaling") or known, (
                    f"{path} imports {name}"
                )


def test_builder_and_trainer_share_the_store_and_nothing_else():
    for path in sources():
        names = {name for name in imports(path) if name.startswith(("unimol_scale.", "conformer_gen"))}
        if inside(path, ["conformer_gen"]):
            shared = ([], ["store"], ["errors"], ["config"], ["common"])
            foreign = {n for n in names if n.split(".")[1:2] not in shared}
            assert not {n for n in foreign if n.startswith("unimol_scale")}, f"{path} imports {foreign}"
        elif not inside(path, ["unimol_scale/downstream"]):
            assert not {n for n in names if n.startswith("conformer_gen")}, f"{path} imports the builder"
