"""The speed table compares two formulations of one function: these tests hold that it is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.training.textbook import TextbookModel
from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from unimol_scale.data.batch import collate
from unimol_scale.model.official.released_weights import GAUSSIAN_CENTRES, to_official
from unimol_scale.model.presets import preset
from unimol_scale.objectives.base import total_loss
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective

SIZES = [9, 14, 7, 1, 11, 2]
REPOSITORY = Path(__file__).resolve().parents[4]


@pytest.mark.parametrize(("normalize_by", "pair_type"), [("molecule", "element"), ("padded", "chirality")])
def test_textbook_and_model_have_equal_losses_and_gradients(normalize_by: str, pair_type: str) -> None:
    torch.manual_seed(0)
    config = preset("0.1M", normalize_by=normalize_by, pair_type=pair_type)
    objective = DenoiseObjective(DenoiseConfig(mask_fraction=0.4))
    sample = objective.corrupt(collate(random_columns(SIZES)), keys(range(len(SIZES))))
    model = objective.build_model(config)
    # Residual branches start at zero: open them, or nothing behind them would be compared.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    textbook = TextbookModel(config)
    textbook.load_state_dict(to_official(model.state_dict(), config))

    terms, textbook_terms = model(sample), textbook(sample)
    for name, value in terms.items():
        torch.testing.assert_close(textbook_terms[name], value, rtol=1e-5, atol=0.0)
    total_loss(terms, sample.counts, objective.weights).backward()
    total_loss(textbook_terms, sample.counts, objective.weights).backward()
    expected = to_official({name: p.grad for name, p in model.named_parameters()}, config)
    del expected[GAUSSIAN_CENTRES]
    found = {name: p.grad for name, p in textbook.named_parameters()}
    assert found.keys() == expected.keys()
    # A bias added alike to all keys has no gradient but rounding; the floor is far below every real norm.
    floor = 1e-8 * torch.stack([g.norm() for g in expected.values()]).norm().item()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name].norm(), gradient.norm(), rtol=1e-5, atol=floor, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert (found[name] - gradient).norm() <= 1e-4 * gradient.norm() + 10 * floor, name


def test_benchmark_writes_a_table_of_all_formulations(tmp_path: Path) -> None:
    output = tmp_path / "table.md"
    command = [
        sys.executable,
        "-m",
        "benchmarks.training.model_step",
        "--size",
        "0.1M",
        "--layers",
        "1",
        "--atoms",
        "sample",
    ]
    command += [
        "--atoms",
        "sample",
        "--batch",
        "3",
        "--repeats",
        "1",
        "--device",
        "cpu",
        "--dtype",
        "both",
        "--output",
        str(output),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    rows = [line.split("|")[1:3] for line in output.read_text().splitlines() if line.startswith("|")][2:]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["textbook", "fp32"],
        ["ours", "fp32"],
        ["ours", "bf16"],
    ]
