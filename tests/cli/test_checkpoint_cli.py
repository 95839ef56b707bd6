"""``unimol-scale checkpoint import|export|info|verify`` as a user calls them, on the public model's own numbers."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from unimol_scale.cli.main import main


@pytest.fixture
def golden(shared_golden: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    folder = tmp_path / "golden"
    folder.mkdir()
    for file in shared_golden.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def verify(golden: Path, *options: str, checkpoint: Path | None = None) -> int:
    command = ["checkpoint", "verify", str(checkpoint or golden / "checkpoint.pt")]
    return main([*command, "--reference", str(golden / "outputs.npz"), *options])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_verify_passes_the_public_models_numbers(golden, capsys, dtype):
    assert verify(golden, "--dtype", dtype) == 0
    output = capsys.readouterr().out
    assert "all 15 agree within" in output
    assert "gradient norms of 111" in output
    assert "absent" not in output


def test_verify_says_where_it_compares(golden, capsys, monkeypatch):
    assert verify(golden, "--device", "cpu") == 0
    assert "fp32 on cpu" in capsys.readouterr().out
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert verify(golden, "--device", "cuda") == 2
    assert "this machine has no GPU" in capsys.readouterr().err


def test_verify_fails_past_the_tolerance(golden, capsys):
    assert verify(golden, "--tolerance", "1e-9") == 1
    assert "differ: atom representation (x)" in capsys.readouterr().out
    assert verify(golden, "--tolerance=-1") == 2


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("encoder.layers.1.opm.linear_out.bias", "pair representation (pair)"),
        ("lm_head.bias", "masked-token logits"),
        ("movement_pred_head.force_proj1.weight", "coordinates (coord)"),
    ],
)
def test_verify_finds_one_perturbed_tensor(golden, capsys, name, shows):
    content = torch.load(golden / "checkpoint.pt", weights_only=True)
    content["model"][name] *= 1.01
    torch.save(content, golden / "checkpoint.pt")
    assert verify(golden) == 1
    assert shows in capsys.readouterr().out.splitlines()[-1]


def test_verify_finds_other_integers_and_gradients(golden, capsys):
    features = dict(np.load(golden / "features.npz"))
    features["4/pair_type"][0, 1, 0] += 1
    np.savez(golden / "features.npz", **features)
    norms = json.loads((golden / "grad_norms.json").read_text())
    norms["lm_head.dense.weight"] *= 1.001
    (golden / "grad_norms.json").write_text(json.dumps(norms))
    assert verify(golden) == 1
    output = capsys.readouterr().out
    assert output.splitlines()[-1].endswith("2 of 15 differ: integers pair_type, gradient norms of 111 tensors")
    assert "molecule 4" in output
    del norms["lm_head.dense.weight"]
    (golden / "grad_norms.json").write_text(json.dumps(norms))
    assert verify(golden) == 2
    assert "no gradient norm of the tensor 'lm_head.dense.weight'" in capsys.readouterr().err


def test_verify_shows_what_the_reference_lacks(golden, capsys):
    arrays = dict(np.load(golden / "outputs.npz"))
    kept = {name: value for name, value in arrays.items() if name.startswith("batch/") or name == "coord"}
    np.savez(golden / "outputs.npz", **kept)
    (golden / "grad_norms.json").unlink()
    assert verify(golden) == 0
    assert capsys.readouterr().out.count("absent") == 9
    np.savez(golden / "outputs.npz", **{name: value for name, value in kept.items() if name != "coord"})
    assert verify(golden) == 2
    assert "has none of the outputs" in capsys.readouterr().err


def test_verify_names_the_molecule_with_a_wrong_code(golden, capsys):
    arrays = dict(np.load(golden / "outputs.npz"))
    arrays["batch/atom_feat"][3, 0, 0] = 9
    np.savez(golden / "outputs.npz", **arrays)
    assert verify(golden) == 2
    assert "molecule 3 of the batch: atom_feat has the code 9" in capsys.readouterr().err


def test_import_verify_and_export_keep_every_bit(golden, tmp_path, capsys):
    ours, copy, released = tmp_path / "ours", tmp_path / "copy", tmp_path / "released.pt"
    assert main(["checkpoint", "import", str(golden / "checkpoint.pt"), "--output", str(ours)]) == 0
    assert verify(golden, checkpoint=ours) == 0
    assert main(["checkpoint", "export", str(ours), "--format", "safetensors", "--output", str(copy)]) == 0
    assert main(["checkpoint", "export", str(copy), "--format", "official", "--output", str(released)]) == 0
    first = torch.load(golden / "checkpoint.pt", weights_only=True)
    second = torch.load(released, weights_only=True)
    assert first["config"] == second["config"]
    assert set(first["model"]) == set(second["model"])
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    assert main(["checkpoint", "import", str(golden / "checkpoint.pt"), "--output", str(ours)]) == 2
    assert main(["checkpoint", "export", str(ours), "--format", "official", "--output", str(released)]) == 2
    assert "already exists" in capsys.readouterr().err


def test_info_shows_counts_and_options(golden, tmp_path, capsys):
    assert main(["checkpoint", "info", str(golden / "checkpoint.pt")]) == 0
    output = capsys.readouterr().out
    for text in ("released Uni-Mol2 file", "137,186", "float32", "chirality", "padded", "2d+3d, 3d, 2d"):
        assert text in output
    assert main(["checkpoint", "import", str(golden / "checkpoint.pt"), "--output", str(tmp_path / "ours")]) == 0
    assert main(["checkpoint", "info", str(tmp_path / "ours")]) == 0
    assert "safetensors" in capsys.readouterr().out


def test_a_checkpoint_that_is_none_is_one_line_and_status_2(golden, tmp_path, capsys):
    whole = (golden / "checkpoint.pt").read_bytes()
    (golden / "checkpoint.pt").write_bytes(whole[:100_000])
    assert main(["checkpoint", "import", str(golden / "checkpoint.pt"), "--output", str(tmp_path / "ours")]) == 2
    error = capsys.readouterr().err
    assert "ends at byte 100000" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "ours").exists()
