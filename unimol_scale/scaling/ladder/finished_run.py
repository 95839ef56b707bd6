"""Judges by its folder whether a run of a ladder is finished, and whether it has the ladder's settings. No torch."""

from pathlib import Path
from typing import Any

from unimol_scale.common.files import hash_file
from unimol_scale.common.run_files import CONFIG_NAME, SUMMARY_NAME
from unimol_scale.common.summary_file import manifest_hash_of
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.common.trees import Differences, Flat, as_lines, differences, flatten
from unimol_scale.config import read_yaml
from unimol_scale.errors import RunError
from unimol_scale.scaling.ladder.ladder import BRANCH_FROM, KEEP_STEPS, MANIFEST, STEPS, LadderConfig, Rung
from unimol_scale.scaling.ladder.run_command import overrides_of
from unimol_scale.scaling.runs.run_records import RunRecord, read_run_folder


def note_settings(config: LadderConfig, rung: Rung) -> None:
    """Write down the settings that the ladder gave a run which has ended."""
    write_json(_asked_path(config, rung), _asked(rung))


def finished_run(config: LadderConfig, rung: Rung) -> RunRecord | str | None:
    """Return the record of a finished run, or why a law cannot use it; None if pretraining has to be started.

    Pretraining has to be started if the run is not finished, or if only the pretraining command can tell whether the
    run has the ladder's settings: that command knows the defaults, and refuses a folder with other settings.

    Raises:
        RunError: the folder holds a run with other settings.
    """
    resolved = rung.folder / CONFIG_NAME
    found = flatten(read_yaml(resolved)[0]) if resolved.is_file() else {}
    _check_same(config, rung, found)
    if not (rung.folder / SUMMARY_NAME).is_file() or _needs_defaults(config, rung, found):
        return None
    _check_data(config, rung)
    outcome = read_run_folder(rung.folder)
    if isinstance(outcome, RunRecord):
        done = {"size": outcome.size, "objective": outcome.comparable["objective"], "steps": outcome.steps}
        wanted = {"size": rung.size, "objective": config.objective, "steps": rung.steps}
        if rung.is_trunk:
            if (outcome.steps or 0) < rung.steps:  # a larger budget was added to the ladder
                return None
            wanted["steps"] = outcome.steps
        _refuse(rung, differences(done, wanted))
        return outcome
    return outcome if outcome.endswith("diverged") else None


def _check_same(config: LadderConfig, rung: Rung, found: Flat) -> None:
    """Compare the ladder's settings with those that the run resolved, as far as the ladder sets them."""
    asked = {"size": rung.size, "objective.name": config.objective, **_asked(rung)}
    # A trunk may have gone further, or may be continued for a new budget. The path of a trunk makes no difference.
    free = {BRANCH_FROM, *((STEPS, KEEP_STEPS) if rung.is_trunk else ())}
    there = {key: value for key, value in asked.items() if key in found and key not in free}
    changed = differences({key: found[key] for key in there}, there)
    changed = {key: pair for key, pair in changed.items() if not _equal(*pair)}
    store = found.get("data.path")
    if store is not None and Path(str(store)).resolve() != config.data.resolve():
        changed["data.path"] = (store, str(config.data))
    _refuse(rung, changed)


def _asked(rung: Rung) -> dict[str, Any]:
    return flatten(overrides_of(rung))


def _asked_path(config: LadderConfig, rung: Rung) -> Path:
    """Return the file with the settings that the ladder gave a run; its config.yaml has the defaults as well."""
    return config.output / "logs" / f"{rung.name}.settings.json"


def _needs_defaults(config: LadderConfig, rung: Rung, found: Flat) -> bool:
    """Return whether the defaults are needed to tell if a finished run has the ladder's settings.

    That is so if the ladder gave the run a setting that it no longer gives, or gives one that the run does not record
    because its version had no such setting. What the pretraining command decides is recorded and not asked again.
    """
    asked = _asked(rung)
    try:
        before: Flat = read_json(_asked_path(config, rung))
    except (OSError, NotJsonError):
        before = {}
    judged = {key for key in before.keys() & asked.keys() if _equal(before[key], asked[key])}
    absent = asked.keys() - found.keys() - judged if found else set()
    return bool(before.keys() - asked.keys() or absent)


def _check_data(config: LadderConfig, rung: Rung) -> None:
    """Check that the store has not changed since a finished run was trained on it."""
    then = manifest_hash_of(rung.folder)
    try:
        now = hash_file(config.data / MANIFEST)
    except OSError:  # a missing file is reported where it is needed
        return
    if then is not None and then != now:
        _refuse(rung, {"content of the store": (f"SHA-256 {then[:12]}…", f"SHA-256 {now[:12]}…")})


def _equal(one: object, two: object) -> bool:
    try:
        return float(one) == float(two)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(one) == str(two)


def _refuse(rung: Rung, changed: Differences) -> None:
    if changed:
        raise RunError(
            f"{rung.folder} holds a run with other settings (its → this ladder's):{as_lines(changed)}\n"
            "Give the ladder another name or output, or delete the folder"
        )
