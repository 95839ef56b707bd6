"""What whole fine-tunings are tested on: a table and a model of no size, and one that is finished."""

import pytest
import torch

from tests.helpers.tiny_finetuning import AROMATIC, CARBON, MOLECULES, SEEDS, TINY, fitting, write_table
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.downstream.config import FinetuneConfig
from unimol_scale.downstream.finetuning.finetune import finetune
from unimol_scale.model.accounting import DENOISE_HEADS
from unimol_scale.model.model_with_heads import HeadedModel


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A table, a pretrained model and a cache, which the tests share."""
    folder = tmp_path_factory.mktemp("finetune")
    size = CARBON + AROMATIC
    write_table(folder / "set.csv", size=size, aromatic=AROMATIC.astype(int))
    torch.manual_seed(7)
    save_pretrained(HeadedModel(TINY, DENOISE_HEADS), folder / "pretrained")
    return folder


@pytest.fixture
def settings(place, tmp_path):
    """Return settings, some of them changed."""

    def made(**changes):
        common = {
            "data": place / "set.csv", "pretrained": str(place / "pretrained"), "targets": ("size",), "split": "random",
            "seeds": SEEDS, "output": tmp_path / "ft", "cache": place / "cache", "conformer_workers": 1,
            "device": "cpu", "train": fitting(epochs=3), "baselines": False,
        }  # fmt: skip
        return FinetuneConfig(**{**common, **changes})

    return made


@pytest.fixture(scope="module")
def finished(place):
    """A finished fine-tuning with rows that cannot be used; copy it to change it."""
    smiles = [*MOLECULES, "not a molecule", "CCO", "C1CC"]
    path = write_table(place / "bad.csv", smiles=smiles, size=[*(CARBON + AROMATIC), 3, 77, ""])
    config = FinetuneConfig(
        data=path, pretrained=str(place / "pretrained"), targets=("size",), units={"size": "atoms"}, split="random",
        seeds=SEEDS, skip_bad=True, output=place / "finished", cache=place / "cache", conformer_workers=1,
        device="cpu", train=fitting(epochs=4), baselines=False,
    )  # fmt: skip
    return config, finetune(config)
