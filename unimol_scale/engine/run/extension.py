"""``--extend STEPS``: continues a run for more steps than it was started with, with the same settings.

The new end is counted from the original end of the run, so the same command, given again after an interruption,
continues the same extension.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unimol_scale.common.run_files import CONFIG_NAME
from unimol_scale.common.trees import Tree, flatten, merge
from unimol_scale.config import Origin, read_yaml
from unimol_scale.engine.run.resume import STEPS, refuse_newer
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.engine.run.run_folder import read_summary, run_is_finished
from unimol_scale.errors import ConfigError
from unimol_scale.objectives.config import ObjectiveConfig


def resolve_extended(steps: int, size: str | None, chosen: Mapping[str, Any], origin: Origin) -> PretrainConfig:
    """Return the settings of an extended run: its own settings, overridden by ``chosen``, with more steps.

    Args:
        steps: number of steps to add to those the run has, if it is finished, or was meant to have.
        size: size of the run; None takes it from the run.
        chosen: see ``resolve``; must contain the run's folder.
        origin: origin of the chosen settings. Settings from a file may be those the run was begun with; settings given
            on the command line are meant for the extension.

    Raises:
        ConfigError: there is no run to extend, or the number of steps is below 1 or contradicts ``train.steps``.
        RunError: a newer version wrote the run's settings.
    """
    if steps < 1:
        raise ConfigError(f"--extend must be at least 1, got {steps}")
    if "init" in origin.given and chosen["init"] is not None:
        raise ConfigError("--extend continues a run, but --init starts a new one; give only one of them")
    if "output" not in origin.given:
        raise ConfigError("--extend needs --output, the folder of the run to continue")
    folder = Path(str(chosen["output"]))
    if not (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"--extend continues a run, but {folder} holds none; start one without --extend")
    base = _settings_of(folder)
    end = _end(folder, base)
    asked = flatten(chosen)[STEPS] if STEPS in origin.given else end
    if asked not in (end, end + steps):
        raise ConfigError(
            f"train.steps={asked} contradicts --extend {steps}, which takes {folder} from step {end} to step "
            f"{end + steps}; give only one of them"
        )
    more = {"train": {"steps": end + steps}, "extended_from": end}
    return resolve(size or str(base.get("size")), merge(chosen, more), origin.with_given(more), base=base)


def _settings_of(folder: Path) -> Tree:
    """Return the settings of a run, without those of unused objectives that this version does not have."""
    base = read_yaml(folder / CONFIG_NAME)[0]
    recorded = base.get("objective", {})
    if not isinstance(recorded, Mapping):
        raise ConfigError(f"{folder / CONFIG_NAME}: objective must hold a mapping of keys to values, not {recorded!r}")
    flat = flatten(base)
    refuse_newer(flat, flat, folder / CONFIG_NAME, "choose another --output")
    names = {field.name for field in dataclasses.fields(ObjectiveConfig)}
    objective = {name: value for name, value in recorded.items() if name in names}
    return {**base, "objective": objective}


def _end(folder: Path, base: Mapping[str, Any]) -> int:
    """Return the step from which an extension counts."""
    if run_is_finished(folder):
        return int(read_summary(folder)["steps"])
    begun = base.get("extended_from")
    return int(base["train"]["steps"] if begun is None else begun)
