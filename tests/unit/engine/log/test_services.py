"""Weights & Biases and MLflow get the events of a run: checked with modules that only take notes, and offline."""

import sys
import types

import pytest

from unimol_scale.engine.log.registry import SINKS
from unimol_scale.engine.log.run_log import RunLog
from unimol_scale.errors import ConfigError

SETTINGS = "size: 2M\ntrain: {steps: 10, learning_rate: 0.001}\n"
EVENTS = ({"step": 0, "valid/loss": 2.0}, {"step": 1, "loss": 1.5, "mfu": 0.25, "grad_norm": float("nan")})


def write_log(folder, sink, first_step=0, events=EVENTS):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(SETTINGS)
    with RunLog(folder, "mine", 10, first_step, ["jsonl", sink]) as log:
        for event in events:
            log.event(event)


class Notes:
    """A module of which every call is written down."""

    def __init__(self):
        self.calls = []

    def note(self, name, answer=None):
        def called(*arguments, **options):
            self.calls.append((name, arguments, options))
            return answer

        return called

    def of(self, name):
        return [(arguments, options) for called, arguments, options in self.calls if called == name]


@pytest.fixture
def notes():
    return Notes()


def test_wandb_is_told_settings_and_events_of_each_session(notes, tmp_path, monkeypatch):
    run = types.SimpleNamespace(**{name: notes.note(name) for name in ("log", "finish", "define_metric")})
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=notes.note("init", run), __spec__=None))
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    write_log(tmp_path / "run", "wandb")
    write_log(tmp_path / "run", "wandb", 1, ({"step": 2, "loss": 1.0},))
    (_, first), (_, second) = notes.of("init")
    assert (first["project"], first["group"], first["name"]) == ("ours", "mine", "mine, session 1")
    assert second["name"] == "mine, session 2"
    assert first["config"] == {"size": "2M", "train": {"steps": 10, "learning_rate": 0.001}}
    assert [arguments[0] for arguments, _ in notes.of("log")] == [
        {"step": 0, "valid/loss": 2.0},
        {"step": 1, "train/loss": 1.5, "speed/mfu": 0.25},
        {"step": 2, "train/loss": 1.0},
    ]
    assert len(notes.of("finish")) == 2
    assert ("*",) in [arguments for arguments, _ in notes.of("define_metric")]


def test_mlflow_is_told_the_same(notes, tmp_path, monkeypatch):
    class Client:
        get_experiment_by_name = staticmethod(notes.note("get"))
        create_experiment = staticmethod(notes.note("create", "7"))
        create_run = staticmethod(notes.note("run", types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))))
        log_batch = staticmethod(notes.note("batch"))
        set_terminated = staticmethod(notes.note("end"))

    entities = types.SimpleNamespace(Metric=lambda *values: values, Param=lambda *values: values, __spec__=None)
    tracking = types.SimpleNamespace(MlflowClient=Client, __spec__=None)
    for name, module in (
        ("mlflow", types.ModuleType("mlflow")),
        ("mlflow.entities", entities),
        ("mlflow.tracking", tracking),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    write_log(tmp_path / "run", "mlflow")
    assert notes.of("create") == [(("unimol-scale",), {})]
    assert notes.of("run")[0][1]["tags"]["session"] == "1"
    params, *metrics = [options for _, options in notes.of("batch")]
    assert ("train.learning_rate", "0.001") in params["params"]
    told = [(key, value, step) for options in metrics for key, value, _, step in options["metrics"]]
    assert told == [("valid/loss", 2.0, 0), ("train/loss", 1.5, 1), ("speed/mfu", 0.25, 1)]
    assert notes.of("end") == [(("r1",), {})]


def test_a_service_that_is_not_installed_is_an_error_that_names_the_extra(monkeypatch):
    monkeypatch.setattr("unimol_scale.engine.log.registry.is_installed", lambda _: False)
    for name in ("wandb", "mlflow"):
        with pytest.raises(ConfigError, match=rf"{name} is not installed: pip install 'unimol-scale\[{name}\]'"):
            SINKS.entry(name)


def test_wandb_writes_a_run_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    write_log(tmp_path / "run", "wandb")
    wandb.teardown()  # waits until its process has written everything
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"train/loss" in file.read_bytes()


def test_mlflow_writes_a_run_into_a_folder(tmp_path, monkeypatch, caplog):
    tracking = pytest.importorskip("mlflow.tracking")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for a database otherwise
    write_log(tmp_path / "run", "mlflow")
    assert "the log mlflow" not in caplog.text
    client = tracking.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("unimol-scale").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"valid/loss": 2.0, "train/loss": 1.5, "speed/mfu": 0.25}
    assert run.data.params["train.steps"] == "10"
