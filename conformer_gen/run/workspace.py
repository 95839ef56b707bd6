"""The output directory of a build: whose it is, what is being built there, and who is at it. Imports the store.

While unfinished, ``.build/`` holds plan.json (every parameter), a lock, and the pieces. The manifest is written last,
then ``.build/`` is removed.
"""

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rdkit import rdBase

from conformer_gen.chemistry import nvmolkit_engine
from conformer_gen.chemistry.config import CurateConfig
from conformer_gen.config import BuildConfig
from conformer_gen.selection.exclusions import describe_files
from conformer_gen.sources.inputs.locations import describe
from conformer_gen.sources.reader import check_source, label_units
from unimol_scale import config as strict
from unimol_scale.common.files import TEMPORARY_SUFFIX, commit_text
from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import MANIFEST_NAME, SPLITS, read_manifest
from unimol_scale.store.schema import PLANAR_SCALE, Layout

WORK_NAME = ".build"
PLAN_NAME = "plan.json"
DEFAULTED = ("isotopes",)  # settings of curation that earlier stores do not name
Tree = dict[str, Any]


def plan_build(config: BuildConfig) -> Tree:
    """Return everything that the content of the store depends on, as the fields of its manifest.

    Raises:
        SourceError: an input is missing, or is not what it claims to be.
    """
    check_source(config.source)
    geometry_from_file = config.source.kind.has_geometry
    methods = ["from file"] * geometry_from_file
    recipe: Tree = {}
    if config.source.kind.may_lack_geometry:
        methods.append(config.conformers.method)
        recipe |= config.conformers.recipe()
        del recipe["hydrogens"]
        del recipe["gpus"]  # of this machine
    recipe["method"] = "; where there is none: ".join(methods)
    return {
        "backend": config.backend,
        "coordinate_scale": None if geometry_from_file else config.conformers.coordinate_scale,
        "planar_scale": PLANAR_SCALE,
        "labels": dict(label_units(config.source)),
        "source": config.source.name,
        "seed": config.seed,
        "hydrogens": config.conformers.hydrogens,
        "conformer_recipe": recipe,
        "parameters": {
            "inputs": describe(config.source),
            "limit": config.source.limit,
            "sample": config.source.sample,
            "smiles_column": config.source.smiles_column,
            "id_column": config.source.id_column,
            **strict.to_tree(config.curate),
            "exclude": describe_files(config.curate),
            "shard_rows": config.shard_rows,
            "limit_s": config.limit_s,
            "task_memory": config.task_memory,
        },
        "versions": {"rdkit": rdBase.rdkitVersion} | nvmolkit_engine.versions(config.conformers),
    }


def sweep(output: Path) -> None:
    """Remove what killed processes left half written outside ``.build/``; call it when nothing is being written."""
    for folder in (output, *(output / name for name in SPLITS)):
        for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink()


def layout_of(plan: Tree) -> Layout:
    """Return the layout of the records that the plan describes."""
    return Layout(plan["coordinate_scale"], tuple(plan["labels"]))


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return "key: theirs there, ours here" for every key, dotted, whose values differ."""
    found = []
    for key in [*ours, *(key for key in theirs if key not in ours)]:
        here, there = ours.get(key), theirs.get(key)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found += differences(here, there, f"{prefix}{key}.")
        elif here != there:
            found.append(f"{prefix}{key} is {there!r} there and {here!r} here")
    return found


def _with_defaults(theirs: Tree) -> Tree:
    """Return a plan of an earlier version with what it had no setting for: what it did is the default."""
    curate = {key: value for key, value in strict.to_tree(CurateConfig()).items() if key in DEFAULTED}
    return {**theirs, "parameters": {**curate, **theirs.get("parameters", {})}}


def claim(output: Path, plan: Tree, task_size: int) -> bool:
    """Make ``output`` ours to build in; touch nothing if it is not.

    Returns:
        True if the store that the plan describes is already finished there.

    Raises:
        StoreError: the directory holds something else, or a build with other parameters.
    """
    work = output / WORK_NAME
    remedy = f"choose another --output, or delete {output} yourself"
    if output.exists() and not output.is_dir():
        raise StoreError(f"{output} is a file; {remedy}")
    if (output / MANIFEST_NAME).is_file():
        tree = _with_defaults(strict.to_tree(read_manifest(output)[0]))
        _refuse(differences(plan, {key: tree[key] for key in plan}), f"{output} holds a finished store of", remedy)
        shutil.rmtree(work, ignore_errors=True)  # left over if the last run was killed after its manifest
        return True
    plan = {**plan, "task_size": task_size}
    plan_file = work / PLAN_NAME
    if plan_file.is_file():
        try:
            theirs = json.loads(plan_file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise StoreError(f"{plan_file} is damaged: {error}; {remedy}") from error
        _refuse(differences(plan, _with_defaults(theirs)), f"{output} holds an unfinished build of", remedy)
        return False
    if output.exists() and any(path.name != WORK_NAME for path in output.iterdir()):
        raise StoreError(f"{output} exists and holds something else than a conformer store; {remedy}")
    commit_text(plan_file, json.dumps(plan, indent=1) + "\n")
    return False


def _refuse(found: list[str], what: str, remedy: str) -> None:
    if found:
        raise StoreError(f"{what} other parameters: {'; '.join(found)}; give the same, {remedy}")


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other builds out of the directory while the block runs; the system unlocks it when the process ends.

    Raises:
        StoreError: another process is building there.
    """
    with (output / WORK_NAME / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(f"another process is building in {output} right now; wait for it to end") from error
        yield
