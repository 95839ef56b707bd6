"""Fine-tuning and embedding by torchrun with two CPU ranks, against one process alone."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.helpers.ranks import REPOSITORY, free_port
from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, TINY, write_table
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.finetuning import results
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A table and a model of no size."""
    folder = tmp_path_factory.mktemp("ranks")
    write_table(folder / "set.csv", size=CARBON + AROMATIC)
    torch.manual_seed(7)
    save_pretrained(HeadedModel(dataclasses.replace(TINY, layers=2), DENOISE_HEADS), folder / "pretrained")
    return folder


def run(*arguments, ranks):
    """Run a command of the package with so many ranks; return what it printed."""
    launcher = [sys.executable]
    if ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", str(free_port())]
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "unimol_scale.cli", *map(str, arguments)]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_ranks_train_what_one_process_trains(place):
    """The trainings of a search are shared, too; only the first rank writes and speaks."""
    found = []
    for ranks in (1, 2):
        output = place / f"ft-{ranks}"
        printed = run(
            "finetune", "--from", place / "pretrained", "--data", place / "set.csv", "--target", "size",
            "--split", "random", "--seeds", 1, "--inputs", "2d", "--output", output, "--cache", place / "cache",
            "--no-baselines", "--no-domain", "--lora", 2, "train.epochs=3", "train.batch_size=8", "train.dropout=0",
            "train.learning_rate=0.01", "train.max_pairs=400",
            "--tune", 2, "tune_folds=2", "tune_over=[epochs]",
            ranks=ranks,
        )  # fmt: skip
        assert printed.count("report: ") == 1
        found.append((results.read(output), pq.read_table(output / "predictions-seed-0.parquet")))
    (alone, table), (shared, other) = found
    np.testing.assert_allclose(shared.seeds[0].losses, alone.seeds[0].losses, rtol=1e-3)
    trials = [[(trial.settings, trial.state) for trial in one.tuning[0].trials] for one in (alone, shared)]
    assert trials[0] == trials[1]
    for one, other_one in zip(alone.tuning[0].trials, shared.tuning[0].trials, strict=True):
        np.testing.assert_allclose(other_one.scores, one.scores, rtol=1e-3)
    assert alone.seeds[0].losses[-1] < alone.seeds[0].losses[0]
    np.testing.assert_allclose(
        other["predicted size"].to_numpy(), table["predicted size"].to_numpy(), rtol=1e-3, atol=1e-3
    )


def test_two_ranks_embed_into_one_file_in_the_order_of_the_rows(place):
    smiles = [*MOLECULES, "not a molecule", "CCCCCCCCCC", "OCC"]
    table = write_table(place / "more.csv", smiles=smiles, size=range(len(smiles)))
    tables = []
    for ranks in (1, 2):
        output = place / f"vectors-{ranks}.parquet"
        printed = run(
            "embed", table, "--from", place / "pretrained", "--output", output, "--cache", place / "cache",
            "--inputs", "2d", "--skip-bad", ranks=ranks,
        )  # fmt: skip
        assert printed.startswith(f"32 of 33 rows embedded: {output}")
        tables.append(pq.read_table(output))
        assert (place / f"vectors-{ranks}.skipped.csv").read_text().count("not a molecule") == 1
    alone, shared = tables
    assert shared.drop_columns("embedding").equals(alone.drop_columns("embedding"))
    vectors = [np.stack(each["embedding"].to_numpy()) for each in tables]
    np.testing.assert_allclose(vectors[1], vectors[0], rtol=1e-4, atol=1e-5)
    assert not list(place.glob(".*"))
