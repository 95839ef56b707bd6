"""The probe of what blend has taught: it shows what it says, and its constant is who says the same of every pair."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from benchmarks.training import relations
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.config import to_tree
from unimol_scale.data.dataset import DataConfig
from unimol_scale.model.accounting import Heads
from unimol_scale.model.encodings import SHOWN_DISTANCE, SHOWN_EDGE, SHOWN_PATH
from unimol_scale.model.model_with_heads import HeadedModel
from unimol_scale.model.presets import preset
from unimol_scale.objectives.blend import RELATIONS, BlendConfig, BlendObjective
from unimol_scale.objectives.config import ObjectiveConfig

PAPER = BlendConfig(full_fraction=0.1)
SHY = BlendConfig(symmetric=True, show_degree=False, atom_features="own", heads="shared")
MOLECULES = 12


def run_of(folder: Path, blend: BlendConfig, name: str = "blend", **model) -> Path:
    """Make the folder of a finished run."""
    torch.manual_seed(0)
    heads = dataclasses.replace(BlendObjective(blend).heads, relations=tuple(RELATIONS))
    save_pretrained(HeadedModel(preset("0.03M", **model), heads), folder / "model")
    (folder / "config.yaml").write_text(yaml.safe_dump({"objective": to_tree(ObjectiveConfig(name=name, blend=blend))}))
    return folder


@pytest.fixture
def data(sample_store: Path) -> DataConfig:
    return DataConfig(path=str(sample_store), conformers="first")


def test_every_kind_of_input_is_asked_and_what_pretraining_hid_is_shown_too(sample_store, tmp_path):
    runs = {"new": run_of(tmp_path / "new", PAPER, edges="path"), "old": run_of(tmp_path / "old", SHY)}
    command = ["--data", str(sample_store), "--molecules", str(MOLECULES), "--train-molecules", "30", "--device", "cpu"]
    named = [word for name, folder in runs.items() for word in ("--run", f"{name}={folder}")]
    assert relations.main([*command, *named, "--output", str(tmp_path / "found.md")]) == 0
    text = (tmp_path / "found.md").read_text()
    assert " ".join(named) in text
    assert "- new: " in text
    assert "model.edges path, ratio 0.2:0.2:0.6, mask 0, full 0.1" in text
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"][2:]
    kinds = ["blend", relations.HIDDEN, "2D + 3D", "2D", "3D"]
    expected = [("new", relations.CONSTANT, ""), *(("new", kind, "as pretrained") for kind in kinds)]
    expected += [("old", relations.CONSTANT, "")]
    expected += [("old", kind, atoms) for atoms in ("as pretrained", "all shown") for kind in kinds]
    assert [tuple(row[:3]) for row in table] == expected
    values = np.array([row[3:] for row in table], dtype=float)
    assert np.isfinite(values).all()
    assert (values > 0).all()
    # The same question has the same answer, and each input another one.
    assert relations.main([*command, *named, "--output", str(tmp_path / "again.md")]) == 0
    assert re.sub("again.md", "found.md", (tmp_path / "again.md").read_text()) == text
    assert len({tuple(row) for row in values[1:6].tolist()}) == 5


def test_a_kind_of_input_shows_what_its_name_says(data, tmp_path):
    probed = relations.read_run(run_of(tmp_path / "run", PAPER, edges="path"), torch.device("cpu"))
    assert probed.blend == PAPER
    bits = {"2D + 3D": SHOWN_PATH | SHOWN_EDGE | SHOWN_DISTANCE, "2D": SHOWN_PATH | SHOWN_EDGE, "3D": SHOWN_DISTANCE}
    for kind, config in relations.kinds_of_input(probed).items():
        (sample,) = relations.samples(BlendObjective(config, "path"), data, "valid", MOLECULES)
        if kind in bits:
            assert (sample.input.shown_BAA == bits[kind]).all()
            torch.testing.assert_close(sample.input.coordinates_BA3, sample.clean_BA3, rtol=0, atol=1e-5)
        else:
            assert (sample.input.coordinates_BA3 - sample.clean_BA3).abs().max() > 0.1


def test_a_model_of_the_graph_is_asked_for_what_it_can_see(data, tmp_path):
    blend = BlendConfig(ratio=(0.5, 0.5, 0.0))
    probed = relations.read_run(run_of(tmp_path / "run", blend, geometry=False), torch.device("cpu"))
    assert list(relations.kinds_of_input(probed)) == ["blend", "2D"]


def test_the_constant_knows_frequencies_and_the_median(data, tmp_path):
    probed = relations.read_run(run_of(tmp_path / "run", PAPER, edges="path"), torch.device("cpu"))
    found = relations.targets(probed, data, "valid", MOLECULES)
    said = relations.constant_errors(found, found)
    # The least that one answer to all of them can miss: no other frequencies, no other distance does better.
    counts = np.bincount(found["path"], minlength=11)
    share = counts[counts > 0] / counts.sum()
    assert said["path"] == pytest.approx(-(share * np.log(share)).sum(), abs=0.01)
    for distance in (2.0, 6.0):
        assert said["distance"] < np.abs(found["distance"] - distance).mean()
    other = {**found, "path": np.full_like(found["path"], 10)}
    assert relations.constant_errors(other, found)["path"] > said["path"]
    # A model whose heads know no more than these frequencies misses as much.
    model = probed.model
    with torch.no_grad():
        for head in model.relation_heads.heads.values():
            head.weight.zero_()
            head.bias.zero_()
        model.relation_heads.heads["path"].bias.copy_(torch.from_numpy(np.log(np.maximum(counts, 1e-6))))
        model.relation_heads.heads["distance"].bias.fill_(float(np.median(found["distance"])))
    of_all, _ = relations.errors(probed, relations.kinds_of_input(probed)["2D"], data, MOLECULES)
    assert of_all["path"] == pytest.approx(said["path"], abs=0.01)
    assert of_all["distance"] == pytest.approx(said["distance"], abs=1e-4)
    assert of_all["edge"] == pytest.approx(np.log(24), abs=1e-4)


def test_other_runs_are_refused(sample_store, tmp_path, capsys):
    folder = tmp_path / "run"
    save_pretrained(HeadedModel(preset("0.03M"), Heads(token=True)), folder / "model")
    (folder / "config.yaml").write_text("objective: {name: denoise}\n")
    assert relations.main(["--data", str(sample_store), "--run", f"run={folder}"]) == 2
    assert "only blend predicts relations" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        relations.main(["--data", str(sample_store), "--run", str(folder)])
    assert "NAME=DIR" in capsys.readouterr().err
