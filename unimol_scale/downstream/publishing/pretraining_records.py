"""Collects the records of a run and its store for a model card. Reads every shard once."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rdkit.Chem import GetPeriodicTable

import unimol_scale.config as strict
from unimol_scale.common.progress import track
from unimol_scale.common.run_files import CONFIG_NAME, UNIQUE
from unimol_scale.common.summary_file import Summary, read_summary
from unimol_scale.downstream.data.pretraining_data import store_of
from unimol_scale.errors import CheckpointError
from unimol_scale.store.manifest import Manifest
from unimol_scale.store.shards import Store, open_store

_AT_A_TIME = 20_000  # number of molecules read at once


@dataclass(frozen=True, kw_only=True)
class PretrainingRecords:
    """Records of a finished run and its store.

    Attributes:
        run: folder of the run.
        summary: content of the run's summary.json.
        settings: content of the run's config.yaml.
        manifest: manifest of the store that the model was trained on.
        molecules_with: symbol of an element → number of training molecules that contain it.
    """

    run: Path
    summary: Summary
    settings: dict[str, Any]
    manifest: Manifest
    molecules_with: dict[str, int]

    @property
    def distinct(self) -> int:
        """Number of distinct training molecules."""
        known = self.summary.get(UNIQUE)
        return known if isinstance(known, int) else self.manifest.splits["train"].rows


def read_records(run: Path) -> PretrainingRecords:
    """Return the records of a finished run and its store.

    Raises:
        CheckpointError: the folder is not a finished run, or its store is not on this machine.
        UnreadableRunError: a file of the run is damaged.
        StoreError: the store is damaged.
    """
    if not (run / CONFIG_NAME).is_file():
        raise CheckpointError(f"{run} is not a run: it has no {CONFIG_NAME}. A model card needs the records of a run")
    summary = read_summary(run)
    if not summary.is_finished:
        raise CheckpointError(f"{run} is not finished; start it again to complete it")
    found = store_of(run)
    if found.path is None:
        raise CheckpointError(f"a model card must describe the training data, but {found.missing}")
    store = open_store(found.path)
    return PretrainingRecords(
        run=run,
        summary=summary,
        settings=strict.read_yaml(run / CONFIG_NAME)[0],
        manifest=store.manifest,
        molecules_with=_elements(store),
    )


def _elements(store: Store) -> dict[str, int]:
    """Return element → number of training molecules that contain it, the most frequent first."""
    split, table = store.split("train"), GetPeriodicTable()
    counts: Counter[int] = Counter()
    starts = range(0, len(split), _AT_A_TIME)
    for start in track(starts, len(starts), "reading the store"):
        columns = split.gather(np.arange(start, min(start + _AT_A_TIME, len(split))))
        molecule_A = np.repeat(np.arange(len(columns.num_atoms)), columns.num_atoms)
        pairs = np.unique(np.stack([molecule_A, columns.atomic_number]), axis=1)
        numbers, times = np.unique(pairs[1], return_counts=True)
        counts.update(dict(zip(numbers.tolist(), times.tolist(), strict=True)))
    return {table.GetElementSymbol(int(number)): count for number, count in counts.most_common()}
