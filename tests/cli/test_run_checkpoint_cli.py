"""``unimol-scale checkpoint info|verify|export`` on a run and its checkpoints."""

import pytest
import torch

import unimol_scale
from tests.helpers.molecules import random_columns
from tests.helpers.random_keys import keys
from tests.helpers.saved_runs import CONFIG, KEPT, assert_is, model_of, save
from unimol_scale.checkpoints.run.shares import share_name
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.cli.main import main
from unimol_scale.data.batch import collate
from unimol_scale.model.accounting import count_parameters
from unimol_scale.objectives.denoise import DenoiseConfig, DenoiseObjective


@pytest.fixture
def run(tmp_path):
    save(tmp_path / "run", 5, mean=True)
    save(tmp_path / "run", 10, mean=True)
    return tmp_path / "run"


def test_export_writes_the_averaged_weights_or_the_last_ones(run, tmp_path, capsys):
    export = ["checkpoint", "export", "--format", "safetensors", "--output"]
    assert main([*export, str(tmp_path / "mean"), str(run)]) == 0
    assert main([*export, str(tmp_path / "last"), str(run / "checkpoints" / "step-00000005"), "--weights", "last"]) == 0
    assert capsys.readouterr().out.count("written") == 2
    assert_is(unimol_scale.from_pretrained(tmp_path / "mean"), 1010)
    assert_is(unimol_scale.from_pretrained(tmp_path / "last"), 5)


def test_the_exported_model_computes_what_the_trained_one_does_bit_for_bit(run, tmp_path):
    export = ["checkpoint", "export", str(run), "--weights", "last", "--format", "safetensors", "--output"]
    assert main([*export, str(tmp_path / "exported")]) == 0
    molecules = collate(random_columns([9, 4, 1]))
    sample = DenoiseObjective(DenoiseConfig()).corrupt(molecules, keys([0, 1, 2]))
    with torch.no_grad():
        live = model_of(10).eval().backbone(sample.input)
        for path in (tmp_path / "exported", run / "checkpoints" / "step-00000010"):
            found = unimol_scale.from_pretrained(path, averaged=False).backbone(sample.input)
            assert torch.equal(found.atom_BND, live.atom_BND)
            assert torch.equal(found.pair_BNNP, live.pair_BNNP)


def test_verify_checks_every_checkpoint_of_a_run(run, capsys):
    assert main(["checkpoint", "verify", str(run)]) == 0
    output = capsys.readouterr().out
    assert output.count("2 shares") == output.count("intact") == 2
    share = run / "checkpoints" / "step-00000005" / share_name(1, 2)
    share.write_bytes(share.read_bytes()[:-1] + b"?")
    assert main(["checkpoint", "verify", str(run)]) == 1
    output = capsys.readouterr().out
    assert "DAMAGED" in output
    assert "step-00000005: share-00001-of-00002.safetensors is damaged" in output.replace("\n", " ")
    assert output.splitlines()[-1].endswith("1 of 2 damaged")
    assert main(["checkpoint", "verify", str(run / "checkpoints" / "step-00000010")]) == 0
    assert main(["checkpoint", "verify", str(run / "checkpoints" / "step-00000005")]) == 1


def test_verify_without_a_reference_checks_a_directory_too(tmp_path, capsys):
    save_pretrained(model_of(0), tmp_path / "ours")
    assert main(["checkpoint", "verify", str(tmp_path / "ours")]) == 0
    assert "the model is intact" in capsys.readouterr().out
    (tmp_path / "ours" / "model.safetensors").write_bytes(b"")
    assert main(["checkpoint", "verify", str(tmp_path / "ours")]) == 2
    assert "has 0 bytes" in capsys.readouterr().err


def test_info_shows_step_shares_and_counts(run, capsys):
    assert main(["checkpoint", "info", str(run)]) == 0
    output = capsys.readouterr().out
    total = f"{count_parameters(CONFIG, KEPT).total:,}"
    for text in ("checkpoint of a run, step-00000010", "ema, exp_avg, exp_avg_sq, weight", total, "float32"):
        assert text in output


def test_info_tells_the_states_of_the_two_optimizers_apart(tmp_path, capsys):
    save(tmp_path / "run", 10, muon=True)
    assert main(["checkpoint", "info", str(tmp_path / "run")]) == 0
    lines = [" ".join(line.strip("│ \n").split()) for line in capsys.readouterr().out.splitlines()]
    assert "of AdamW's parameters │ exp_avg, exp_avg_sq, weight" in lines
    assert "of Muon's parameters │ momentum, weight" in lines
