"""Records and reports how the settings of a run changed since its checkpoint.

Every checkpoint records the whole configuration and all earlier changes. The list in a finished run's summary therefore
describes the steps that led to its weights, whatever was abandoned on the way. ``config_history.jsonl`` gets one line,
with the previous content, each time config.yaml is replaced by other settings.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unimol_scale.checkpoints.run.checkpoint_folder import CheckpointInfo
from unimol_scale.common.run_files import CONFIG_HISTORY_NAME, CONFIG_NAME
from unimol_scale.common.trees import Differences, Flat, as_lines, flatten
from unimol_scale.config import read_yaml
from unimol_scale.engine.run.resume import (
    DATA_HASH,
    RATE,
    SCHEDULE,
    STEPS,
    all_settings,
    changed_settings,
    refuse_newer,
    schedule_of,
    settings_that_matter,
)
from unimol_scale.engine.run.run_config import PretrainConfig
from unimol_scale.engine.run.schedule import learning_rate
from unimol_scale.errors import ConfigError, RunError
from unimol_scale.store.remote import is_url

_RATE = frozenset(f"train.{name}" for name in RATE)


@dataclass(frozen=True, kw_only=True)
class SettingsChange:
    """Settings that changed when a run was continued.

    Attributes:
        step: steps done before the change.
        changes: dotted key → (before, now).
        curve: those changes that affect how later steps update the weights.
        rates: learning rate of the last step before and of the first step after; None: it does not change.
        extended_from: number of steps of the run before ``--extend``; None: this is not an extension.
    """

    step: int
    changes: Differences
    curve: tuple[str, ...]
    rates: tuple[float, float] | None
    extended_from: int | None

    def describe(self, schedule: str, steps: int) -> str:
        """Return a description for the user.

        Args:
            schedule: name of the schedule that the run now follows.
            steps: step at which it now ends.
        """
        text = f"settings changed after step {self.step} (before → now):{as_lines(self.changes)}"
        if self.extended_from is not None:
            text += (
                f"\n  --extend: the {schedule} schedule, which ended at step {self.extended_from}, now ends at {steps}"
            )
        elif STEPS in self.changes:
            text += f"\n  the {schedule} schedule now ends at step {steps}"
        if self.rates is not None:
            old, new = self.rates
            word = f"goes from {old:.3e} at step {self.step} to {new:.3e} at step {self.step + 1}"
            text += f"\n  the learning rate {word if new != old else f'stays {new:.3e}'}"
        return text

    def as_tree(self) -> dict[str, Any]:
        """Return it in a form that JSON can hold."""
        return {
            "step": self.step,
            "changes": {key: list(pair) for key, pair in self.changes.items()},
            "curve": list(self.curve),
            "rates": None if self.rates is None else list(self.rates),
            "extended_from": self.extended_from,
        }


def change_since(
    before: Mapping[str, Any], step: int, config: PretrainConfig, data_manifest_sha256: str
) -> SettingsChange | None:
    """Return how a run's settings changed after ``step`` steps; None if they did not.

    Args:
        before: flat settings before.
        step: steps done.
        config: configuration from now on.
        data_manifest_sha256: hash of the data's manifest.
    """
    matter = settings_that_matter(config, data_manifest_sha256)
    changed = changed_settings(before, {**all_settings(config), **matter})
    if not changed:
        return None
    rates = None
    if step and _RATE & changed.keys():
        rates = learning_rate(step - 1, schedule_of(before)), learning_rate(step, config.train)
    extended = "extended_from" in changed and config.extended_from is not None
    return SettingsChange(
        step=step,
        changes=changed,
        curve=tuple(key for key in changed if key in SCHEDULE or key in matter),
        rates=rates,
        extended_from=config.extended_from if extended else None,
    )


def recorded_settings(found: CheckpointInfo, folder: Path) -> Flat:
    """Return the flat settings that a checkpoint was trained with.

    Checkpoints of earlier versions record only the settings that must not change; the others come from config.yaml.
    """
    before = _without_places(found.meta["config"]) if "config" in found.meta else settings_in(folder)
    return {**before, **found.meta["settings"]}


def settings_in(folder: Path) -> Flat:
    """Return the content of a run folder's config.yaml, flat, without the folder; {} if it cannot be read."""
    try:
        return _without_places(read_yaml(folder / CONFIG_NAME)[0])
    except ConfigError:
        return {}


def _without_places(tree: Mapping[str, Any]) -> Flat:
    """Return flat settings without the run folder, and with the absolute path of the store."""
    settings = flatten(tree)
    settings.pop("output", None)
    store = settings.get("data.path")
    if isinstance(store, str) and not is_url(store):  # earlier versions recorded it as the user gave it
        settings["data.path"] = str(Path(store).absolute())
    return settings


def refuse_fewer_steps(steps: int, done: int, where: object) -> None:
    """Raise if a run is asked to end before the step it has reached.

    Raises:
        RunError: it is asked to do so.
    """
    if steps < done:
        raise RunError(
            f"{where} has done {done} steps, which is more than train.steps={steps}, so the loss of step {steps} "
            f"cannot be computed. Set train.steps={done} or more, or choose another --output"
        )


def refuse_without_steps(found: CheckpointInfo, config: PretrainConfig, change: SettingsChange | None) -> None:
    """Raise if a start would do no step and yet end as a run with other settings.

    Raises:
        RunError: fewer steps are requested than are done, or the same number with another schedule, or the loss after
            the last step is unknown.
    """
    refuse_fewer_steps(config.train.steps, found.step, config.output)
    if found.step < config.train.steps:
        return
    if change is not None and change.curve:
        raise RunError(
            f"{config.output} has done {found.step} steps with other settings (before → now):"
            f"{as_lines({key: change.changes[key] for key in change.curve})}\n"
            f"With train.steps={config.train.steps} no step would be done with the new settings. Use the earlier "
            "settings, ask for more steps, or choose another --output"
        )
    if found.meta.get("validation_loss") is None:
        raise RunError(
            f"{found.path} was saved without a validation, so the loss of a run that ends there is unknown; ask for "
            "more steps"
        )


def nothing_left(config: PretrainConfig, summary: Mapping[str, Any], data_manifest_sha256: str) -> bool:
    """Return whether a finished run is exactly what is requested; False if more steps are requested.

    Args:
        config: the requested configuration.
        summary: summary of the finished run in ``config.output``.
        data_manifest_sha256: hash of the manifest of the requested data.

    Raises:
        RunError: the run finished with other settings, or has more steps, or a newer version wrote it; the message
            shows the differences.
    """
    before = settings_in(config.output)
    if not before:
        raise RunError(
            f"{config.output} holds a finished run but no {CONFIG_NAME} with its settings; choose another --output"
        )
    refuse_newer(before, all_settings(config), config.output / CONFIG_NAME, "choose another --output")
    done = int(summary["steps"])
    refuse_fewer_steps(config.train.steps, done, f"the finished run {config.output}")
    if config.train.steps > done:
        return False
    before |= {DATA_HASH: summary["data_manifest_sha256"], STEPS: done}
    change = change_since(before, done, config, data_manifest_sha256)
    if change is not None and change.curve:
        raise RunError(
            f"{config.output} is finished, but with other settings (before → now):"
            f"{as_lines({key: change.changes[key] for key in change.curve})}\n"
            "Choose another --output for the new settings, or repeat the earlier ones; --extend STEPS continues the "
            "run, "
            "and --init starts another run from its weights"
        )
    return True


def keep_history(config: PretrainConfig, step: int) -> None:
    """Record the content of config.yaml before it is replaced, if it differs from the present settings.

    Args:
        config: the present configuration.
        step: steps done.
    """
    old = settings_in(config.output)
    changed = changed_settings(old, all_settings(config)) if old else {}
    if changed:
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": step,
            "changes": {key: list(pair) for key, pair in changed.items()},
        }
        with (config.output / CONFIG_HISTORY_NAME).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
