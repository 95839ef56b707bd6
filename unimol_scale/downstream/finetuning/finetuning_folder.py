"""Checks that the fine-tuning in a folder has the same settings, data and weights as the one that is to continue in it.

``config.yaml`` holds the settings. ``inputs.json`` holds hashes of the data and the weights, since files can change,
and the form in which molecules are shown to the models.
"""

import dataclasses
from pathlib import Path

import unimol_scale.config as strict
from unimol_scale.common.files import TEMPORARY_SUFFIX, commit_text, hash_file
from unimol_scale.common.text.json_files import NotJsonError, read_json, write_json
from unimol_scale.common.trees import Tree, as_lines, as_newer, differences, flatten, unknown
from unimol_scale.data.input_views import InputView
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.molecule_files import check_there, is_store
from unimol_scale.errors import ConfigError, NewerFileError, SourceError
from unimol_scale.store.manifest import MANIFEST_NAME

CONFIG_NAME = "config.yaml"
INPUTS_NAME = "inputs.json"
RESULTS_NAME = "results.json"  # marks a fine-tuning as finished
# Settings that do not change the models: an interrupted fine-tuning may continue with other values.
FREE = frozenset(
    {"output", "cache", "conformer_workers", "device", "models_at_once", "train.workers", "baselines", "coverage",
     "conformal", "domain", "learning_curve"}
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputHashes:
    """Hashes of the inputs of a fine-tuning (hexadecimal SHA-256), and the form in which molecules are shown.

    Attributes:
        data: hash of the table, or of the store's manifest, which has the hashes of the shards.
        pretrained: hash of the pretrained weights; None for random weights.
        view: form in which molecules are shown, according to the pretrained model's file; None, or if this key is
            absent: the standard form.
        split_file: hash of the split file; None without one.
    """

    data: str
    pretrained: str | None
    view: InputView | None = None
    split_file: str | None = None


def hash_inputs(config: FinetuneConfig) -> InputHashes:
    """Return the hash of a table, or of the manifest of a store, and of the split file; weights are not hashed here.

    Raises:
        SourceError: the data or the split file does not exist.
    """
    path, split_file = config.data, config.split_file
    check_there(path)
    if split_file is not None and not split_file.is_file():
        raise SourceError(f"split file {split_file} does not exist")
    return InputHashes(
        data=hash_file(path / MANIFEST_NAME if is_store(path) else path),
        pretrained=None,
        split_file=None if split_file is None else hash_file(split_file),
    )


def with_begun_view(folder: Path, hashes: InputHashes) -> InputHashes:
    """Return the hashes with the view of the seeds already in the folder, which the remaining seeds must share.

    Raises:
        ConfigError: a newer version wrote the file, or it is damaged.
    """
    if not (folder / INPUTS_NAME).is_file() or not any(folder.glob("seed-*.json")):
        return hashes
    tree = read_recorded(folder / INPUTS_NAME, "choose another --output or remove the folder")
    known = {key: tree[key] for key in strict.keys_of(InputHashes) if key in tree}  # check_folder reports unknown keys
    try:
        then = strict.build(InputHashes, known, strict.Origin(name=str(folder / INPUTS_NAME), recorded=True))
    except NewerFileError as error:
        raise ConfigError(f"{error}, or choose another --output") from error
    return dataclasses.replace(hashes, view=then.view)


def check_folder(folder: Path, config: FinetuneConfig, hashes: InputHashes) -> None:
    """Check that a folder is empty, holds the same fine-tuning, or holds one without any finished seed.

    The same fine-tuning with fewer seeds, or a cross-validation with fewer repeats, counts as the same. So does one of
    more seeds that is not finished: its user may have found that each takes too long.

    Raises:
        ConfigError: the folder holds something else, a newer version wrote it, or a file in it is damaged. The message
            shows the settings that differ.
    """
    if not (folder / CONFIG_NAME).is_file() or not (folder / INPUTS_NAME).is_file():
        # The hashes are written first: settings without hashes belong to something else, such as a training run.
        if folder.is_file() or (folder.is_dir() and any(not _may_be_begun(path) for path in folder.iterdir())):
            raise ConfigError(f"{folder} already holds something else; choose another --output")
        return
    if not _has_seeds(folder):  # no work would be lost
        return
    before = _settings_of(folder)
    free = FREE | _may_change(before, config, is_finished=(folder / RESULTS_NAME).is_file())
    changed = differences(*(flatten(strict.to_tree(settings)) for settings in (before, config)))
    if changed := {key: pair for key, pair in changed.items() if key not in free}:
        raise ConfigError(
            f"{folder} holds a fine-tuning with other settings (before → now):{as_lines(changed)}\n"
            "Choose another --output or remove it"
        )
    then = read_recorded(folder / INPUTS_NAME, "choose another --output or remove the folder")
    if newer := unknown(then, strict.keys_of(InputHashes)):
        raise ConfigError(f"{as_newer(newer, folder / INPUTS_NAME)}, or choose another --output")
    if inputs := differences(then, strict.to_tree(hashes), strict.defaults_of(InputHashes)):
        raise ConfigError(
            f"{folder} holds a fine-tuning that was started with other content of {' and '.join(sorted(inputs))}; "
            "choose another --output or remove it"
        )


def _may_change(before: FinetuneConfig, config: FinetuneConfig, *, is_finished: bool) -> set[str]:
    """Return the settings that may differ now while the existing models are kept.

    There may be more seeds or repeats, or, before the fine-tuning is finished, fewer seeds. The models of a
    cross-validation are counted by fold, so another number of seeds would renumber them.
    """
    if config.is_kfold:
        return {"repeats"} if before.repeats < config.repeats else set()
    return {"seeds"} if before.num_seeds < config.num_seeds or not is_finished else set()


def begun_settings(folder: Path) -> FinetuneConfig | None:
    """Return the settings of the models already in a folder; None if it has no models.

    Models of versions that did not record ``hydrogens`` do not see them, whatever they were pretrained on.

    Raises:
        ConfigError: a newer version wrote the settings, or they are damaged.
    """
    begun = (folder / CONFIG_NAME).is_file() and (folder / INPUTS_NAME).is_file() and _has_seeds(folder)
    return _settings_of(folder) if begun else None


def write_settings(folder: Path, config: FinetuneConfig, hashes: InputHashes) -> None:
    """Write settings and hashes into a folder that ``check_folder`` has accepted.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        write_json(folder / INPUTS_NAME, strict.to_tree(hashes))
        commit_text(folder / CONFIG_NAME, strict.to_yaml(config))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}; choose another --output") from error


def read_recorded(path: Path, remedy: str) -> Tree:
    """Return the content of a JSON file in the folder of a fine-tuning.

    Args:
        path: the file.
        remedy: what to do if it is damaged, for the message.

    Raises:
        ConfigError: the file cannot be read, or is damaged.
    """
    try:
        return read_json(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except NotJsonError as error:
        raise ConfigError(f"{path} is damaged: it {error}; {remedy}") from error


def _settings_of(folder: Path) -> FinetuneConfig:
    """Return the recorded settings of a fine-tuning; an absent key has its default.

    The exception is ``hydrogens``: versions without this key never showed hydrogens to a model.
    """
    tree, origin = strict.read_yaml(folder / CONFIG_NAME)
    tree = {"hydrogens": False, **tree}
    try:
        return strict.build(FinetuneConfig, tree, dataclasses.replace(origin, recorded=True))
    except NewerFileError as error:
        raise ConfigError(f"{error}, or choose another --output") from error


def _has_seeds(folder: Path) -> bool:
    return any(folder.glob("seed-*.json"))


def _may_be_begun(path: Path) -> bool:
    return path.name == INPUTS_NAME or path.name.endswith(TEMPORARY_SUFFIX)
