"""What the tests of fine-tuning share: thirty molecules, labels that a model can learn, and a model of no size."""

import pickletools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unimol_scale.data.input_views import STANDARD_VIEWS, Inputs
from unimol_scale.downstream.config import FinetuneTrainConfig, HeadName, LossName, Pooling, Task
from unimol_scale.downstream.data.batches import RowReader, SampleMaker
from unimol_scale.downstream.data.molecules import Prepared, prepare
from unimol_scale.downstream.finetuning.model.learnt_outputs import Scaling
from unimol_scale.downstream.finetuning.model.property_model import PropertyModel
from unimol_scale.downstream.finetuning.model.training import TrainingProblem
from unimol_scale.downstream.registry import METRICS
from unimol_scale.model.presets import ModelConfig

Float64 = npt.NDArray[np.float64]

TINY = ModelConfig(
    layers=1, atom_width=16, heads=2, ffn_width=16, pair_width=8, pair_hidden=4, gaussians=8,
    dropout=0.0, attention_dropout=0.0, triangle_dropout=0.0,
)  # fmt: skip
MOLECULES = (
    "CCO", "CCN", "CCC(=O)O", "c1ccccc1", "Oc1ccccc1", "Nc1ccccc1", "CC(=O)Nc1ccc(O)cc1", "CCCCCC", "CCCCCCCC",
    "C1CCCCC1", "c1ccncc1", "c1ccoc1", "c1ccsc1", "CC(C)O", "CC(C)(C)O", "ClCCl", "FC(F)F", "CC#N", "CS(C)=O",
    "CCOC(C)=O", "O=C(O)c1ccccc1", "COc1ccccc1", "c1ccc2ccccc2c1", "CN1CCCC1", "OCC(O)CO", "CCSCC", "BrCCBr",
    "NCC(=O)O", "CC(N)C(=O)O", "O=Cc1ccccc1",
)  # fmt: skip
CARBON = np.array([sum(text.upper().count(c) for c in "C") - text.count("Cl") for text in MOLECULES], np.float64)
AROMATIC = np.array([float("c1" in text) for text in MOLECULES])

SEEDS = 2  # of a whole fine-tuning


def write_table(path: Path, *, smiles: Sequence[str] = MOLECULES, **columns: Sequence[object] | Float64) -> Path:
    """Write a CSV file of molecules and the given columns; return its path."""
    rows = zip(smiles, *columns.values(), strict=True)
    lines = [",".join(["smiles", *columns]), *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def prepared(cache: Path, smiles: Sequence[str] = MOLECULES) -> Prepared:
    """Return molecules with depictions, which take no time."""
    return prepare(smiles, cache=cache, geometry=False, max_atoms=None, workers=1)


def column(values: Sequence[float] | Float64) -> Float64:
    """Return labels of one target, [M, 1]."""
    return np.asarray(values, np.float64)[:, None]


def problem(
    molecules: Prepared,
    labels_ML: Float64,
    task: Task,
    metric: str,
    *,
    train: Sequence[int] = range(24),
    valid: Sequence[int] = range(24),
    loss: LossName = "mse",
    inputs: Inputs = "2d",
    num_classes: int = 0,
) -> TrainingProblem:
    """Return what is to be learnt of some rows, as graphs unless other inputs are named."""

    def reader(rows: Sequence[int]) -> RowReader:
        return RowReader(molecules.split, molecules.position_M[list(rows)], labels_ML[list(rows)])

    return TrainingProblem(
        train=reader(train),
        valid=reader(valid),
        make_sample=SampleMaker(view=STANDARD_VIEWS[inputs], model=TINY),
        scaling=Scaling.of(labels_ML[list(train)], task, num_classes),
        loss=loss,
        metric=METRICS[metric],
    )


def model(
    num_targets: int = 1, pooling: Pooling = "mean", dropout: float = 0.0, head: HeadName = "mlp"
) -> PropertyModel:
    """Return an untrained model, drawn from torch's present state."""
    return PropertyModel(TINY, num_targets, pooling, dropout, head)


def fitting(**changes: object) -> FinetuneTrainConfig:
    """Return how tests fit: fast, without dropout."""
    settings = {"learning_rate": 1e-2, "batch_size": 8, "epochs": 5, "dropout": 0.0, **changes}
    return FinetuneTrainConfig(**settings)  # type: ignore[arg-type]


def names_in(text: bytes) -> list[str]:
    """Return every text in a pickle, the names of modules and classes among them."""
    return [value for _, value, _ in pickletools.genops(text) if isinstance(value, str)]
