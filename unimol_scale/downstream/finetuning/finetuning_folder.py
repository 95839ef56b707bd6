"""Checks that a folder's fine-tuning has the same settings, data and weights as the one that is to go on in it.

``config.yaml`` has the settings. ``inputs.json`` has hashes of the data and the weights, since files can change.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import unimol_scale.config as strict
from unimol_scale.common.files import TEMPORARY_SUFFIX, commit_text, hash_file
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.data.molecule_files import check_there, is_store
from unimol_scale.errors import ConfigError
from unimol_scale.store.manifest import MANIFEST_NAME

CONFIG_NAME = "config.yaml"
INPUTS_NAME = "inputs.json"
# Settings that do not change the results: an interrupted fine-tuning may go on with other values.
FREE = frozenset({"output", "cache", "conformer_workers", "device", "train.workers"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputHashes:
    """SHA-256 of the inputs of a fine-tuning, hexadecimal.

    Attributes:
        data: of the table, or of the store's manifest, which has the hashes of the shards.
        pretrained: of the pretrained weights; None for random ones.
    """

    data: str
    pretrained: str | None


def hash_data(path: Path) -> str:
    """Return the SHA-256 of a table, or of the manifest of a store.

    Raises:
        SourceError: it is neither.
    """
    check_there(path)
    return hash_file(path / MANIFEST_NAME if is_store(path) else path)


def check_folder(folder: Path, config: FinetuneConfig, hashes: InputHashes) -> None:
    """Check that a folder is empty, holds the same fine-tuning, or one that has not finished any seed.

    The same fine-tuning with more seeds counts as the same.

    Raises:
        ConfigError: the folder holds something else; names the settings that differ.
    """
    if not (folder / CONFIG_NAME).is_file() or not (folder / INPUTS_NAME).is_file():
        # The hashes are written first: settings without hashes belong to something else, such as a training run.
        if folder.is_file() or (folder.is_dir() and any(not _may_be_begun(path) for path in folder.iterdir())):
            raise ConfigError(f"{folder} holds something else already; choose another --output")
        return
    if not any(folder.glob("seed-*.json")):  # no work would be lost
        return
    # A key that did not exist then had its default.
    before = strict.to_tree(strict.build(FinetuneConfig, *strict.read_yaml(folder / CONFIG_NAME)))
    more = before["seeds"] < config.seeds  # finished seeds are kept
    changed = sorted(_differences(before, strict.to_tree(config)) - FREE - ({"seeds"} if more else set()))
    if changed:
        raise ConfigError(
            f"{folder} holds a fine-tuning of other settings ({', '.join(changed)}); choose another --output or "
            "remove it"
        )
    then = json.loads((folder / INPUTS_NAME).read_text(encoding="utf-8"))
    if changed := sorted(_differences(then, strict.to_tree(hashes))):
        raise ConfigError(
            f"{folder} holds a fine-tuning that was begun with another content of {' and '.join(changed)}; choose "
            "another --output or remove it"
        )


def write_settings(folder: Path, config: FinetuneConfig, hashes: InputHashes) -> None:
    """Write settings and hashes into a folder that ``check_folder`` has accepted.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        commit_text(folder / INPUTS_NAME, json.dumps(strict.to_tree(hashes), indent=1) + "\n")
        commit_text(folder / CONFIG_NAME, strict.to_yaml(config))
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}; choose another --output") from error


def _may_be_begun(path: Path) -> bool:
    return path.name == INPUTS_NAME or path.name.endswith(TEMPORARY_SUFFIX)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> set[str]:
    names = set()
    for key in {*before, *now}:
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            names |= _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            names.add(f"{prefix}{key}")
    return names
