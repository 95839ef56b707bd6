"""The structure of the code: what may import what, no circles, rooms of a readable size, names that occur once.

The tables below are the structure; the tests hold the source files to them. Nothing is imported.
"""

import ast
import re
from collections import defaultdict

import pytest

from tests.helpers.import_graph import (
    LOADED,
    REPOSITORY,
    ImportedModules,
    find_circles,
    find_modules,
    is_package,
    reachable,
)

# The commands that users know by their paths; they only call the command line.
SCRIPTS = ("launch.pretrain", "conformer_gen.build")

# Imports point from the right to the left: a name may import itself and what stands before it. "*" are the other files
# of a folder. Every folder that holds folders has a row; "" is the whole.
ORDER = {
    "": "errors private_apis common former_settings config store conformer_gen data model objectives checkpoints engine"
    " scaling downstream huggingface api unimol_scale cli scripts",
    "conformer_gen": "sources chemistry config selection report run",
    "conformer_gen.chemistry": "bonds *",
    "conformer_gen.sources": "file_range frame_units molecule frame_settings source registry config inputs *"
    " frame_files data_sets",
    "unimol_scale.common": "files text * report machine fetching",
    "unimol_scale.store": "* lmdb_files",
    "unimol_scale.model": "native presets accounting kernels fused * official",
    "unimol_scale.model.fused": "programs *",
    "unimol_scale.data": "vocabulary features batch steps *",
    "unimol_scale.checkpoints": "safetensors_writer run *",
    "unimol_scale.engine": "log run parallel objective_setup planning *",
    "unimol_scale.scaling": "runs law rates tasks report ladder",
    "unimol_scale.downstream": "metric metrics registry uncertainty label_settings trained_parts tune_settings"
    " config compute launched_ranks label_units labels fold_statistics depiction data baselines embedding"
    " finetuning explanation comparison publishing",
    "unimol_scale.downstream.data": "splitting benchmarks own_geometry *",
    "unimol_scale.downstream.finetuning": "finetuning_folder adaptation model cautions labelled_rows tuning results"
    " folds confidence predictions reporting atom_references row_parts problem probe planning one_seed processes *",
    "unimol_scale.api": "equal_content table_columns molecule_inputs predictions * estimators",
    "unimol_scale.cli": "* verbs main __main__",
}

# Rooms that see less of what stands before them.
SEES_ONLY = {
    "store": ["errors", "config", "common"],
    "conformer_gen": ["errors", "config", "common", "store"],
    "scaling": ["errors", "config", "common", "unimol_scale.model.presets", "unimol_scale.model.accounting"],
    "scripts": ["cli", "common"],
}
# Rooms that only some of those behind them see.
SEEN_ONLY_BY = {"conformer_gen": ["downstream", "api", "cli"], "unimol_scale": ["cli"], "api": ["unimol_scale", "cli"]}

# Library → the modules that may import it, or whose files and folders may.
LIBRARIES = {
    "rdkit": ["conformer_gen", "unimol_scale.downstream"],
    "ray": ["conformer_gen.run.ray_*"],
    "deepspeed": ["unimol_scale.engine.parallel"],
    "triton": ["unimol_scale.model.fused.programs.*"],
    "transformers": ["unimol_scale.huggingface"],
    "nvmolkit": ["conformer_gen.chemistry.nvmolkit_engine"],
    "optuna": ["unimol_scale.downstream.finetuning.tuning"],
    "matplotlib": [
        "conformer_gen.report",
        "unimol_scale.common.report.pictures",
        "unimol_scale.engine.log.curve",
        "unimol_scale.scaling.report",
        "unimol_scale.downstream.finetuning.reporting.finetune_pictures",
        "unimol_scale.downstream.finetuning.reporting.learning_curve",
        "unimol_scale.downstream.comparison.comparison_report",
    ],
}
# Whatever these import, in functions too, ends at no file that imports torch; one file is about torch's devices.
WITHOUT_TORCH = ["errors", "former_settings", "config", "common", "store", "scaling", "conformer_gen"]
ABOUT_TORCH = "unimol_scale.common.machine.devices"
# Loading these loads no torch: the command line answers --help at once, and ``import unimol_scale`` takes no seconds.
LOAD_NO_TORCH = ["cli", "unimol_scale", "scripts"]

MOST_FILES = 12
# Folder → why it may have more files: all are of one kind.
OF_ONE_KIND = {
    "unimol_scale/objectives": "one file an objective",
    "conformer_gen/sources": "one file a format",
    "unimol_scale/cli/verbs": "one file a verb",
}
# File names that may occur several times in one package tree, each meaning the same everywhere.
PARALLEL_NAMES = {
    "config.py": "settings of the room that it stands in",
    "registry.py": "names → classes of the room that it stands in",
}

MODULES = find_modules(REPOSITORY, ("unimol_scale", "conformer_gen", "launch"))
IMPORTS = ImportedModules(MODULES)


def room(module):
    """Return the part of the whole that a module belongs to, as the first row of ORDER names it."""
    parts = module.split(".")
    if module in SCRIPTS:
        return "scripts"
    return parts[1] if parts[0] == "unimol_scale" and len(parts) > 1 else parts[0]


def child(module, package):
    """Return the file or folder of a package that a module lies in; None for the package itself and for others."""
    if not package:
        return room(module)
    if module in SCRIPTS or not module.startswith(f"{package}."):
        return None
    return module.removeprefix(f"{package}.").split(".")[0]


def lies_in(module, place):
    """Return whether a module is a place, or lies in it; a place may end in *."""
    return module.startswith(place[:-1]) if place.endswith("*") else f"{module}.".startswith(f"{place}.")


@pytest.mark.parametrize("package", ORDER)
def test_imports_point_to_what_stands_before(package):
    row = ORDER[package].split()

    def rank(module):
        name = child(module, package)
        return row.index(name if name in row else "*") if name is not None else None

    wrong = []
    for module, other in IMPORTS.arrows():
        ranks = rank(module), rank(other)
        if None not in ranks and ranks[0] < ranks[1]:
            wrong.append(f"{module} imports {other}")
    assert not wrong, f"{package or 'the whole'} has the order {' < '.join(row)}:\n" + "\n".join(wrong)


def test_every_folder_has_its_place_in_the_order():
    packages = [name for name, path in MODULES.items() if is_package(path) and name != "unimol_scale"]
    assert {name for name in packages if any(other.startswith(f"{name}.") for other in packages)} <= ORDER.keys()
    for package, text in ORDER.items():
        row = set(text.split())
        missing = {child(module, package) for module in MODULES} - {None, *row}
        files = {name for name in missing if f"{package}.{name}" not in packages}
        assert not (missing - files if "*" in row else missing), package or "the whole"


def test_rooms_see_only_what_they_may():
    wrong = []
    for module, other in IMPORTS.arrows():
        here, there = room(module), room(other)
        if here == there or other == "unimol_scale.model":  # the folder of what may be seen
            continue
        blind = here in SEES_ONLY and there not in SEES_ONLY[here] and other not in SEES_ONLY[here]
        if blind or here not in SEEN_ONLY_BY.get(there, [here]):
            wrong.append(f"{module} imports {other}")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports():
    # Through names of packages, too: ``from unimol_scale import x`` asks the public API, which leads everywhere.
    circles = find_circles(IMPORTS.graph())
    assert not circles, "\n".join(" → ".join(circle) for circle in circles)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_only_in_its_rooms(library):
    users = users_of(library, IMPORTS.everything)
    assert users, "nobody imports it; take the line out"
    strangers = {module for module in users if not any(lies_in(module, place) for place in LIBRARIES[library])}
    assert not strangers


def users_of(library, names_of):
    return {module for module, names in names_of.items() if library in {name.split(".")[0] for name in names}}


def test_rooms_without_torch_stay_without_torch():
    graph, torch_users = IMPORTS.graph(), users_of("torch", IMPORTS.everything)
    for module in MODULES:
        if room(module) in WITHOUT_TORCH and module != ABOUT_TORCH:
            ways = reachable(graph, module)
            found = [" → ".join(ways[user]) for user in sorted(torch_users & ways.keys())]
            assert not found, f"imports torch: {found[0]}"


def test_commands_and_the_package_load_without_torch():
    graph, torch_users = IMPORTS.graph(only_at_load=True), users_of("torch", IMPORTS.at_load)
    for module in [*MODULES, f"unimol_scale{LOADED}"]:
        if room(module.removesuffix(LOADED)) in LOAD_NO_TORCH:
            ways = reachable(graph, module)
            found = [" → ".join(ways[user]) for user in sorted(torch_users & ways.keys())]
            assert not found, f"loads torch: {found[0]}"


@pytest.mark.parametrize("library", ["torch", "RDKit", "Ray", "DeepSpeed"])
def test_a_file_that_says_that_it_imports_no_such_library_loads_none(library):
    graph, users = IMPORTS.graph(only_at_load=True), users_of(library.lower(), IMPORTS.at_load)
    for module, path in MODULES.items():
        says = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if re.search(rf"\bno {library}\b", says, re.IGNORECASE):
            ways = reachable(graph, module)
            found = [" → ".join(ways[user]) for user in sorted(users & ways.keys())]
            assert not found, f"says that it imports no {library}: {found[0]}"


def test_no_folder_shows_more_files_than_a_reader_takes_in():
    counts = defaultdict(int)
    for path in MODULES.values():
        counts[path.parent.relative_to(REPOSITORY).as_posix()] += not is_package(path)
    wide = {folder: count for folder, count in counts.items() if count > MOST_FILES and folder not in OF_ONE_KIND}
    assert not wide


def test_no_two_public_classes_share_a_name():
    places = defaultdict(list)
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(module)
    assert not {name: modules for name, modules in places.items() if len(modules) > 1}


def test_no_two_files_of_a_package_tree_share_a_name():
    places = defaultdict(list)
    for module, path in MODULES.items():
        # A verb is named as the file that does its work.
        if (
            not is_package(path)
            and path.name not in PARALLEL_NAMES
            and not module.startswith("unimol_scale.cli.verbs.")
        ):
            places[module.split(".")[0], path.name].append(module)
    assert not {key: modules for key, modules in places.items() if len(modules) > 1}
