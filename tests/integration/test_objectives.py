"""Each objective as a user starts it: a whole run on real ranks, its model read back, and what is refused at once."""

import json
import shutil

import pytest
import torch

from tests.helpers import ranks as launched
from unimol_scale import from_pretrained
from unimol_scale.checkpoints.weights import save_pretrained
from unimol_scale.cli.verbs.pretrain import main
from unimol_scale.config import read_settings
from unimol_scale.data.batch import collate
from unimol_scale.data.steps.random_streams import MoleculeKeys
from unimol_scale.engine.objective_setup import unprepared_teacher, with_teacher_named
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.model.presets import preset
from unimol_scale.objectives.distill import DistillConfig, DistillObjective
from unimol_scale.store.shards import open_store

pytestmark = pytest.mark.deepspeed
SETTINGS = [
    "train.precision=fp32",
    "train.steps=4",
    "train.keep_finished=all",
    "train.warmup_steps=1",
    "train.learning_rate=1e-3",
    "train.global_batch_size=16",
    "train.log_every=1",
    "train.checkpoint_every=2",
    "train.validate_every=4",
    "data.workers=0",
]
MIXTURE = ["--objective", "mixture", "objective.mixture.denoise=0.5", "objective.mixture.blend=0.5"]


def run(store, output, *arguments, ranks=1, size="0.1M"):
    done = launched.pretrain("--size", size, *SETTINGS, "--data", store, "--output", output, *arguments, ranks=ranks)
    assert done.returncode == 0, done.stdout
    return output


@pytest.fixture(scope="module")
def teacher(sample_store, tmp_path_factory):
    """A finished run that predicts the plain noise, on two ranks."""
    return run(sample_store, tmp_path_factory.mktemp("runs") / "teacher", "objective.denoise.predict=noise", ranks=2)


@pytest.fixture(scope="module")
def student(sample_store, teacher, tmp_path_factory):
    """A finished distillation of the teacher, on two ranks with shared weights."""
    output = tmp_path_factory.mktemp("runs") / "student"
    arguments = ["--objective", "distill", f"objective.distill.teacher={teacher}"]
    return run(sample_store, output, *arguments, ranks=2, size="0.03M")


def clean_sample(store, model_config):
    columns = open_store(store).split("valid").gather(torch.arange(6).numpy(), torch.zeros(6).long().numpy())
    objective = DistillObjective(DistillConfig(), model_config, model_config)
    keys = MoleculeKeys(seed=0, epoch_B=torch.zeros(6).long().numpy(), molecule_B=torch.arange(6).numpy())
    return objective.corrupt(collate(columns), keys)


def test_a_finished_run_is_a_model(teacher, sample_store):
    model = from_pretrained(teacher)
    assert model.backbone.config == preset("0.1M")
    assert model.seen.inputs == ("2d+3d", "3d", "2d")
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())
    summary = json.loads((teacher / "summary.json").read_text())
    assert sum(p.numel() for p in model.parameters()) == summary["parameters"]["total"]
    assert set(summary["final"]) == {"valid/loss", "valid/loss/token", "valid/loss/coordinate"}


def test_the_student_of_a_run_is_a_model_of_the_graph(student, teacher, sample_store):
    config = json.loads((student / "model" / "config.json").read_text())
    assert config["model"]["geometry"] is False
    model = from_pretrained(student)
    assert model.backbone.pair_encoding.distance is None
    assert model.seen.inputs == ("2d",)
    assert not hasattr(model, "projection")  # only the student is kept
    sample = clean_sample(sample_store, model.backbone.config)
    sample.input.coordinates_BA3.fill_(torch.nan)
    with torch.no_grad():
        assert torch.isfinite(model.backbone(sample.input).atom_BND[:, 1:][sample.input.valid_BA]).all()
    valid = launched.losses(student, "valid/loss/node")
    assert valid[4] < valid[0]
    summary = json.loads((student / "summary.json").read_text())
    assert summary["parameters"]["heads"] == 16 * 48 + 48  # the map to the teacher's width


def test_distilling_on_one_rank_follows_two_and_resumes(student, teacher, sample_store, tmp_path):
    arguments = ["--objective", "distill", f"objective.distill.teacher={teacher}"]
    alone = run(sample_store, tmp_path / "alone", *arguments, size="0.03M")
    (alone / "summary.json").unlink()
    shutil.rmtree(alone / "checkpoints" / "step-00000004")
    run(sample_store, alone, *arguments, size="0.03M")  # goes on from step 2, and writes the model again
    assert not (alone / "config_history.jsonl").exists()
    for key in ("loss", "valid/loss"):
        assert launched.losses(alone, key) == pytest.approx(launched.losses(student, key), rel=1e-4)


def test_a_mixture_follows_the_same_losses_on_one_rank_and_two(sample_store, tmp_path):
    alone = run(sample_store, tmp_path / "alone", *MIXTURE)
    together = run(sample_store, tmp_path / "together", *MIXTURE, ranks=2)
    one, two = launched.losses(alone, "loss"), launched.losses(together, "loss")
    assert one == pytest.approx(two, rel=1e-4)
    final = json.loads((together / "summary.json").read_text())["final"]
    assert {"valid/loss/denoise/token", "valid/loss/blend/path", "valid/loss/blend/hidden_edge"} <= set(final)
    found = from_pretrained(together).heads
    assert found.token
    assert found.relations == ("path", "edge", "distance")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("objective.distill.teacher=nowhere", "nowhere does not exist"),
        ("objective.distill.teacher={student}", "sees only the 2D graph"),
        ("objective.distill.teacher={teacher} objective.distill.teacher_sha256=abc", "have the SHA-256"),
        ("objective.distill.teacher={teacher} model.geometry=true", "model.geometry is true"),
        ("", "objective.distill.teacher is required"),
    ],
)
def test_a_teacher_that_is_none_is_refused_before_the_first_step(
    student, teacher, sample_store, capsys, settings, message
):
    chosen = settings.format(student=student, teacher=teacher).split()
    arguments = ["--size", "0.03M", *SETTINGS, "--data", str(sample_store), "--objective", "distill", "--dry-run"]
    assert main([*arguments, *chosen]) == 2
    assert message in capsys.readouterr().err


def test_another_teacher_is_another_objective_and_another_place_is_not(teacher, sample_store, tmp_path):
    shutil.copytree(teacher / "model", tmp_path / "moved")

    def hash_with(path):
        settings = [*SETTINGS, f"objective.distill.teacher={path}"]
        flags = {"data": {"path": str(sample_store)}, "objective": {"name": "distill"}}
        return with_teacher_named(resolve("0.03M", *read_settings(None, flags, settings))).objective_sha256

    assert hash_with(teacher) == hash_with(tmp_path / "moved")
    model = from_pretrained(teacher)
    with torch.no_grad():
        model.backbone.atom_norm.weight[0] += 1.0
    save_pretrained(model, tmp_path / "other")
    assert hash_with(teacher) != hash_with(tmp_path / "other")


def test_a_teacher_that_never_saw_what_it_is_shown_is_warned_of(teacher, sample_store, tmp_path):
    shutil.copytree(teacher / "model", tmp_path / "of-graphs")
    about = tmp_path / "of-graphs" / "config.json"
    tree = json.loads(about.read_text())
    del tree["seen"]["views"]["3d"]
    about.write_text(json.dumps(tree))

    def warning(path, inputs):
        settings = [f"objective.distill.teacher={path}", f"objective.distill.teacher_inputs={inputs}"]
        flags = {"data": {"path": str(sample_store)}, "objective": {"name": "distill"}}
        return unprepared_teacher(resolve("0.03M", *read_settings(None, flags, settings)))

    assert warning(teacher, "3d") is None
    assert warning(teacher, "full") is None
    assert warning(tmp_path / "of-graphs", "full") is None
    assert "elements and coordinates, which its pretraining never showed" in warning(tmp_path / "of-graphs", "3d")


def test_a_run_is_not_continued_with_another_objective(teacher, sample_store, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(teacher, output)
    (output / "summary.json").unlink()
    before = (output / "config.yaml").read_text()
    done = launched.pretrain("--size", "0.1M", *SETTINGS, "--data", sample_store, "--output", output)
    assert done.returncode == 2
    assert "was trained with other settings" in done.stdout
    assert "objective.denoise.predict: noise → geometry" in done.stdout
    assert (output / "config.yaml").read_text() == before
