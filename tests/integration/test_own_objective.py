"""An objective and a log from somebody else's files, as a user trains with them: ranks, resume, models, fine-tuning."""

import json
import shutil
import sys

import pytest

from tests.helpers import ranks as launched
from tests.helpers.extensions import OBJECTIVE, forget, importable, imported
from unimol_scale.checkpoints.weights import load_pretrained
from unimol_scale.cli.main import main
from unimol_scale.cli.verbs.pretrain import main as pretrain
from unimol_scale.config import read_settings
from unimol_scale.engine.run.resume import refuse_differences, settings_that_matter
from unimol_scale.engine.run.run_config import resolve
from unimol_scale.errors import CheckpointError

pytestmark = pytest.mark.deepspeed
SETTINGS = [
    "--size", "0.03M", "train.precision=fp32", "train.steps=4", "train.keep_finished=all", "train.warmup_steps=1",
    "train.learning_rate=1e-3", "train.global_batch_size=16", "train.log_every=1", "train.checkpoint_every=2",
    "train.validate_every=2",
]  # fmt: skip
OWN = ["--objective", OBJECTIVE, "objective.settings.fraction=0.3", "log.sinks=[jsonl,toy_sink:CsvSink]"]


@pytest.fixture(scope="module")
def trained(sample_store, tmp_path_factory):
    """A finished run of two ranks, each with a loader process, which had the objective on their PYTHONPATH."""
    output = tmp_path_factory.mktemp("runs") / "two"
    with importable():
        done = launched.pretrain(*SETTINGS, *OWN, "--data", sample_store, "--output", output, ranks=2)
    assert done.returncode == 0, done.stdout
    return output


@pytest.fixture
def copy(trained, tmp_path):
    """The run again, as it was after step 2."""
    output = tmp_path / "run"
    shutil.copytree(trained, output)
    (output / "summary.json").unlink()
    shutil.rmtree(output / "model")
    shutil.rmtree(output / "checkpoints" / "step-00000004")
    return output


def logged(folder):
    """Return what the two logs of a run hold: step, key and value of every entry."""
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    mine = [(event["step"], key, value) for event in events for key, value in event.items() if key != "step"]
    theirs = [line.split(",") for line in (folder / "events.csv").read_text().splitlines()]
    return sorted(mine), sorted((int(step), key, float(value)) for step, key, value in theirs)


def test_a_run_with_it_is_a_run_like_any_other(trained):
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["objective"] == OBJECTIVE
    assert set(summary["final"]) == {"valid/loss", "valid/loss/element", "valid/loss/wrong"}
    assert summary["final"]["valid/loss"] == summary["final"]["valid/loss/element"]  # "wrong" is not learnt
    losses = launched.losses(trained, "valid/loss")
    assert losses[4] < losses[0]
    config = (trained / "config.yaml").read_text()
    assert "fraction: 0.3" in config
    assert "smoothing: 0.1" in config  # that was not given, and counts at a resume
    mine, theirs = logged(trained)
    assert mine == theirs
    assert not (trained / "tensorboard").exists()


def test_one_rank_goes_on_where_two_stopped_and_follows_the_same_losses(trained, copy, sample_store):
    with importable():
        done = launched.pretrain(*SETTINGS, *OWN, "--data", sample_store, "--output", copy)
        assert done.returncode == 0, done.stdout
        assert "goes on from" in done.stdout
        for key in ("loss", "valid/loss"):
            assert launched.losses(copy, key) == pytest.approx(launched.losses(trained, key), rel=1e-4)
        mine, theirs = logged(copy)
        assert mine == theirs  # what was done again stands in neither twice


def test_its_settings_are_compared_at_a_resume_and_tell_runs_apart(trained):
    with importable():

        def configured(*settings):
            flags = {"objective": {"name": OBJECTIVE}, "data": {"path": "store"}}
            return resolve("0.03M", *read_settings(None, flags, settings))

        assert configured().output.name == "0.03M-SmoothedElements-seed0"  # no colon in the name of a folder
        (checkpoint,) = (trained / "checkpoints").glob("step-00000004")
        before = json.loads((checkpoint / "manifest.json").read_text())["meta"]["settings"]
        now = settings_that_matter(configured("objective.settings.fraction=0.2"), "hash")
        with pytest.raises(CheckpointError, match=r"objective\.settings\.fraction: 0\.3 → 0\.2"):
            refuse_differences(before, now, checkpoint)
        # A setting that the objective did not have when the checkpoint was written counts as its default.
        earlier = {key: value for key, value in before.items() if key != "objective.settings.smoothing"}
        matters = settings_that_matter(configured(*OWN[2:3], *SETTINGS[2:]), before["data manifest SHA-256"])
        refuse_differences(earlier, matters, checkpoint)
        hashes = {configured(*given).objective_sha256 for given in ((), ("objective.settings.smoothing=0.2",))}
        assert len(hashes) == 2


def test_what_a_run_folder_names_is_imported_only_if_the_user_names_it_too(copy, sample_store, capsys):
    with importable():  # it could be imported
        extend = ["--extend", "2", "--output", str(copy), "--dry-run"]
        assert pretrain(extend) == 2
        assert f"only if you name it yourself: add --objective {OBJECTIVE}" in capsys.readouterr().err
        assert pretrain([*extend, "--objective", OBJECTIVE]) == 2
        assert "add log.sinks=[jsonl,toy_sink:CsvSink]" in capsys.readouterr().err
        assert not imported()
        assert pretrain([*extend, *OWN[:2], *OWN[3:]]) == 0
        assert imported()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objective.settings.fractoin=0.3"], "unknown key 'fractoin'; did you mean 'fraction'"),
        (["objective.settings.fraction=2"], "objective.settings.fraction must be above 0 and at most 1, got 2"),
        (["objective.settings.fraction=half"], "objective.settings.fraction: expected a number, got 'half'"),
        (["--objective", "toy_objective:Smoothed"], "has no 'Smoothed'; did you mean 'SmoothedElements'"),
        (["--objective", "denoise"], "objective.settings is for an objective of your own"),
        (["log.sinks=[toy_sink:Csv]"], "the module toy_sink has no 'Csv'; did you mean 'CsvSink'"),
        (["--objective", "mine:Picky"], "objective.settings: not today (from Config of mine:Picky)"),
        (["--objective", "mine:Guessed"], "corrupt returns a different sample each time"),
        (["--objective", "mine:Larger"], "but count_parameters says"),
        (["--objective", "mine:Nothing"], "build_model must return a torch.nn.Module, not None"),
        (["--objective", "mine:Global"], "corrupt returns a different sample each time"),
        (["--objective", "mine:Placed"], "depends on its position in the batch"),
        (["--objective", "mine:Uncounted"], "corrupt counts the terms wrong, but its weights are for element, wrong"),
    ],
)
def test_what_is_wrong_is_told_before_the_first_step(sample_store, tmp_path, monkeypatch, capsys, arguments, message):
    (tmp_path / "mine.py").write_text(
        "import dataclasses, torch\n"
        "from toy_objective import SmoothedElements\n"
        "class Own(SmoothedElements):\n"
        "    def corrupt(self, batch, keys):\n"
        "        sample = super().corrupt(batch, keys)\n"
        "        return dataclasses.replace(sample, **self.changed(sample))\n"
        "def moved(sample, noise):\n"
        "    shown = sample.input\n"
        "    moved = shown.coordinates_BA3 + noise[:, None, None]\n"
        "    return {'input': dataclasses.replace(shown, coordinates_BA3=moved)}\n"
        "class Global(Own):\n"
        "    def changed(self, sample): return moved(sample, torch.rand(len(sample.molecule_B)))\n"
        "class Guessed(Own):\n"
        "    def changed(self, sample): return {'element_BA': (sample.element_BA * torch.rand(()))}\n"
        "class Larger(SmoothedElements):\n"
        "    def build_model(self, config):\n"
        "        model = super().build_model(config)\n"
        "        model.more = torch.nn.Linear(2, 3)\n"
        "        return model\n"
        "class Nothing(SmoothedElements):\n"
        "    def build_model(self, config): pass\n"
        "@dataclasses.dataclass(frozen=True, kw_only=True)\n"
        "class PickyConfig:\n"
        "    fraction: float = 0.1\n"
        "    def __post_init__(self): raise ValueError('not today')\n"
        "class Picky(SmoothedElements):\n"
        "    Config = PickyConfig\n"
        "class Placed(Own):\n"
        "    def changed(self, sample): return moved(sample, torch.arange(len(sample.molecule_B)))\n"
        "class Uncounted(Own):\n"
        "    def changed(self, sample): return {'counts': {'wrong': 1.0}}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with importable():
        given = [*SETTINGS, *OWN, "--data", str(sample_store), "--output", str(tmp_path / "run"), "--dry-run"]
        assert pretrain([*given, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_it_is_planned_like_any_other(sample_store, capsys):
    with importable():
        given = [*SETTINGS, *OWN, "--data", str(sample_store), "--output", "run", "--dry-run"]
        assert pretrain(given) == 0
        assert OBJECTIVE in capsys.readouterr().out
        assert main(["plan", "--size", "84M", "--gpus", "8", "--atoms", "25", "--objective", OBJECTIVE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == OBJECTIVE


def test_its_model_needs_the_code_no_more(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    forget()
    found = load_pretrained(trained)
    assert found.heads.token
    assert not found.heads.coordinate
    assert main(["checkpoint", "info", str(trained)]) == 0
    rows = ["CCO", "CCN", "CCCl", "CCCC", "CCCO", "CCCN", "CC#N", "CC=O", "CCBr", "CCS", "CCF", "CCOC"]
    (tmp_path / "set.csv").write_text("smiles,y\n" + "".join(f"{row},{len(row) % 5}.5\n" for row in rows))
    fine = [
        "finetune",
        "--from",
        str(trained),
        "--data",
        "set.csv",
        "--target",
        "y",
        "--split",
        "random",
        "--inputs",
        "2d",
        "--no-baselines",
    ]
    assert main([*fine, "--seeds", "1", "--output", "fine", "train.epochs=1", "fractions=[0.5,0.25,0.25]"]) == 0
    assert "test rmse" in capsys.readouterr().out
    assert not imported()
