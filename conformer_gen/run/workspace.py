"""The output directory of a build: what is being built there, and by which process. Imports the store.

Until the build is finished, ``.build/`` holds plan.json (every parameter), a lock, and the pieces. The manifest is
written last; then ``.build/`` is removed.
"""

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from rdkit import rdBase

import unimol_scale.config as strict
from conformer_gen.chemistry import nvmolkit_engine
from conformer_gen.chemistry.config import ConformerConfig, CurateConfig
from conformer_gen.config import BuildConfig
from conformer_gen.selection.exclusions import describe_files
from conformer_gen.sources.config import SourceConfig
from conformer_gen.sources.inputs.locations import describe
from conformer_gen.sources.joint import joint_label_units, source_tags
from conformer_gen.sources.reader import check_source
from conformer_gen.sources.units import UNIT_BYTES
from unimol_scale.common.files import TEMPORARY_SUFFIX
from unimol_scale.common.machine.locks import HeldError, claim_lock
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.common.trees import Flat, Tree, as_lines, as_newer, differences, flatten, unknown
from unimol_scale.errors import StoreError
from unimol_scale.store.manifest import MANIFEST_NAME, SPLITS, read_manifest
from unimol_scale.store.schema import ATOM_LABELS, ATOM_LABELS_VERSION, PLANAR_SCALE, Layout

WORK_NAME = ".build"
PLAN_NAME = "plan.json"
# Keys of plan.json: how large a unit is, and whether ranges of a text file are units, too. They are absent from builds
# of earlier versions, whose units were sources, or later at least whole files of text.
UNIT_SIZE, TEXT_RANGES = "unit_bytes", "text_ranges"
SOURCES = "sources"  # group of the manifest's parameters that holds the parameters of each of several sources
# Groups whose keys are chosen by the user.
FREE_GROUPS = ("labels", "atom_labels", "versions", "parameters.inputs", "parameters.frames", f"parameters.{SOURCES}")
# Settings that were added later and whose default differs from the earlier behaviour: what their absence means.
_DONE_BEFORE: Flat = {
    "parameters.radicals": "keep",
    "parameters.task_memory": None,
    "conformer_recipe.stereo": "keep",
    "conformer_recipe.from_file": None,
}


def plan_build(config: BuildConfig) -> Tree:
    """Return everything that determines the content of the store, as the fields of its manifest.

    Raises:
        SourceError: an input is missing, or is not what it claims to be.
    """
    sources = config.each_source
    for source in sources:
        check_source(source)
    geometry_from_file = any(source.keeps_geometry for source in sources)
    methods = ["from file"] * geometry_from_file
    recipe: Tree = {}
    if any(source.may_lack_geometry for source in sources):
        methods.append(config.conformers.method)
        recipe |= config.conformers.recipe()
        del recipe["hydrogens"]
        del recipe["gpus"]  # specific to this machine
    if geometry_from_file and config.conformers.from_file is not None:
        recipe |= {name: getattr(config.conformers, name) for name in ("from_file", "energy_window", "rmsd_prune")}
    recipe["method"] = "; where there is none: ".join(methods)
    return {
        **_atom_labels(sources),
        "backend": config.backend,
        "coordinate_scale": None if geometry_from_file else config.conformers.coordinate_scale,
        "planar_scale": PLANAR_SCALE,
        "labels": joint_label_units(sources),
        "source": " + ".join(source.name for source in sources),
        "seed": config.seed,
        "hydrogens": config.conformers.hydrogens,
        "conformer_recipe": recipe,
        "parameters": {
            **_what_is_read(config),
            **_curation(config.curate),
            "exclude": describe_files(config.curate),
            "shard_rows": config.shard_rows,
            "limit_s": config.limit_s,
            "task_memory": config.task_memory,
        },
        "versions": {"rdkit": rdBase.rdkitVersion} | nvmolkit_engine.versions(config.conformers),
    }


def _atom_labels(sources: Sequence[SourceConfig]) -> Tree:
    """Return the manifest fields for the atom labels of all sources; {} if there are none."""
    wanted = {name for source in sources for name in source.frames.keep}
    units = {name: label.unit for name, label in ATOM_LABELS.items() if name in wanted}
    return {"atom_labels": units, "schema_version": ATOM_LABELS_VERSION} if units else {}


def _what_is_read(config: BuildConfig) -> Tree:
    """Return the inputs and settings of the source; for several sources, those of each under its tag."""
    if config.source is not None:
        return _read_of(config.source)
    tags = source_tags(config.sources)
    each = zip(tags, config.sources, strict=True)
    return {SOURCES: {tag: {"name": source.name, **_read_of(source)} for tag, source in each}}


def _read_of(source: SourceConfig) -> Tree:
    tree: Tree = {"inputs": describe(source)}
    tree |= {name: getattr(source, name) for name in ("limit", "sample", "smiles_column", "id_column")}
    if (frames := source.resolved_frames) is not None:
        tree["frames"] = strict.to_tree(frames)
    return tree if source.geometry == "keep" else {**tree, "geometry": source.geometry}


def _curation(curate: CurateConfig) -> Tree:
    """Return the settings of curation; of the two validation sizes, only the one that applies."""
    unused = "valid_count" if curate.valid_count is None else "valid_fraction"
    return {key: value for key, value in strict.to_tree(curate).items() if key != unused}


def sweep(output: Path) -> None:
    """Remove half-written files of killed processes outside ``.build/``; call it while nothing is being written."""
    for folder in (output, *(output / name for name in SPLITS)):
        for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
            path.unlink()


def layout_of(plan: Tree) -> Layout:
    """Return the layout of the records that the plan describes."""
    return Layout(plan["coordinate_scale"], tuple(plan["labels"]), tuple(plan.get("atom_labels", ())))


def _refuse_other(plan: Tree, theirs: Tree, file: Path, what: str, remedy: str) -> None:
    """Raise if a directory's recorded parameters differ from this plan; an absent setting had its default.

    Raises:
        StoreError: the message shows the differences, or the settings that only a newer version knows.
    """
    before, now = flatten(theirs), flatten(plan)
    defaults = _defaults(tuple(plan["parameters"].get(SOURCES, ())))
    if newer := unknown(before, {*now, *defaults, *FREE_GROUPS}):
        raise StoreError(f"{as_newer(newer, file)}, {remedy}")
    if changed := differences(before, now, defaults):
        raise StoreError(
            f"{what} other parameters (there → here):{as_lines(changed)}\nUse the same parameters, {remedy}"
        )


def _defaults(tags: Sequence[str]) -> Flat:
    """Return what the absence of each key from a plan means, by dotted key.

    Args:
        tags: tags of the sources, if there are several.
    """
    parameters = [strict.defaults_of(kind, "parameters") for kind in (BuildConfig, SourceConfig, CurateConfig)]
    parameters += [strict.defaults_of(SourceConfig, f"parameters.{SOURCES}.{tag}") for tag in tags]
    recipe = flatten({"conformer_recipe": ConformerConfig().recipe()})
    return {key: value for group in (*parameters, recipe, _DONE_BEFORE) for key, value in group.items()}


def claim(output: Path, plan: Tree, task_size: int) -> bool:
    """Claim ``output`` for this build; if it belongs to something else, change nothing.

    Returns:
        True if the planned store is already finished there.

    Raises:
        StoreError: the directory holds something else, or a build with other parameters.
    """
    work = output / WORK_NAME
    remedy = f"choose another --output, or delete {output} yourself"
    if output.exists() and not output.is_dir():
        raise StoreError(f"{output} is a file; {remedy}")
    if (output / MANIFEST_NAME).is_file():
        tree = strict.to_tree(read_manifest(output)[0])
        theirs = {key: tree[key] for key in plan}
        _refuse_other(plan, theirs, output / MANIFEST_NAME, f"{output} holds a finished store of", remedy)
        shutil.rmtree(work, ignore_errors=True)  # left over if the last run was killed after its manifest
        return True
    plan = {**plan, "task_size": task_size, UNIT_SIZE: UNIT_BYTES, TEXT_RANGES: True}
    plan_file = work / PLAN_NAME
    if plan_file.is_file():
        try:
            theirs = read_json(plan_file)
        except NotJsonError as error:
            raise StoreError(f"{plan_file} is damaged, it {error}; {remedy}") from error
        plan |= {key: theirs.get(key) for key in (UNIT_SIZE, TEXT_RANGES)}  # it is continued as it was begun
        _refuse_other(plan, theirs, plan_file, f"{output} holds an unfinished build of", remedy)
        return False
    if output.exists() and any(path.name != WORK_NAME for path in output.iterdir()):
        raise StoreError(f"{output} exists and is not a conformer store; {remedy}")
    write_json(plan_file, plan)
    return False


def units_of(output: Path) -> tuple[int | None, bool]:
    """Return how large the units are in which the claimed build is read, and whether text files are read in ranges.

    A size of None means that each source is one unit.
    """
    plan = read_json(output / WORK_NAME / PLAN_NAME)
    return plan.get(UNIT_SIZE), bool(plan.get(TEXT_RANGES))


@contextlib.contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other builds out of the directory for the duration of the block; the lock ends with the process.

    Raises:
        StoreError: another process is building there.
    """
    try:
        lock = claim_lock(output / WORK_NAME / "lock")
    except HeldError as error:
        raise StoreError(
            f"another process is building in {output} right now{error.holder}; wait until it ends"
        ) from error
    with lock:
        yield
