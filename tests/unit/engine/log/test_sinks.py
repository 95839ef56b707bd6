"""A log that fails stops neither the run nor the other logs, and what it lacks is told."""

import json
import sys

import pytest

from unimol_scale.common.command_output import shown_on_stderr
from unimol_scale.engine.log.run_log import RunLog
from unimol_scale.engine.log.safe_sink import MAX_FAILURES
from unimol_scale.engine.run.run_config import LogConfig
from unimol_scale.errors import ConfigError

CODE = """
class Closed:
    def __init__(self, start): raise PermissionError("not logged in")
    def event(self, event): pass
    def close(self): pass

class Shaky:
    def __init__(self, start): self.asked = 0; ALL.append(self)
    def event(self, event):
        self.asked += 1
        if event["step"] >= FAILS_FROM: raise TimeoutError("no answer")
    def close(self): raise OSError("gone")

def forgot_to_return(start): Closed

ALL, FAILS_FROM = [], 2
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    import mine

    yield mine
    del sys.modules["mine"]


def steps_in(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_log_that_cannot_be_opened_is_told_and_the_others_are_written(mine, tmp_path, capsys):
    with shown_on_stderr(), RunLog(tmp_path, "run", 10, 0, ["mine:Closed", "tensorboard"]) as log:
        log.event({"step": 1, "loss": 1.0})
    said = capsys.readouterr().err
    assert "the log mine:Closed cannot be opened (PermissionError: not logged in); the run continues without it" in said
    assert "the log mine:Closed has lost 1 events" in said
    assert steps_in(tmp_path) == [1]  # metrics.jsonl is written though it is not listed
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_log_that_fails_is_told_without_any_listener(mine, tmp_path, caplog):
    with RunLog(tmp_path, "run", 10, 0, ["mine:Closed", "mine:Shaky"]) as log:
        log.event({"step": 2, "loss": 1.0})
    heard = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for text in ("Closed cannot be opened", "Closed has lost 1 events", "Shaky has failed", "Shaky cannot be closed"):
        assert any(text in said for said in heard)


def test_a_function_that_returns_no_log_is_told(mine, tmp_path, capsys):
    with shown_on_stderr(), RunLog(tmp_path, "run", 10, 0, ["jsonl", "mine:forgot_to_return"]) as log:
        log.event({"step": 1, "loss": 1.0})
    assert "cannot be opened (ConfigError: it returned None, which lacks the methods event, close)" in (
        capsys.readouterr().err
    )


def test_a_log_that_fails_is_told_once_and_not_asked_for_ever(mine, tmp_path, capsys):
    with shown_on_stderr(), RunLog(tmp_path, "run", 100, 0, ["jsonl", "mine:Shaky"]) as log:
        for step in range(1, 51):
            log.event({"step": step, "loss": 1.0})
    said = capsys.readouterr().err
    assert said.count("the log mine:Shaky has failed (TimeoutError: no answer); the run continues") == 1
    assert "cannot be closed (OSError: gone)" in said
    assert "has lost 49 events" in said
    assert mine.ALL[0].asked == 1 + MAX_FAILURES
    assert steps_in(tmp_path) == list(range(1, 51))
    assert not (tmp_path / "tensorboard").exists()


def test_a_log_that_recovers_gets_what_comes_then(mine, tmp_path, monkeypatch):
    with RunLog(tmp_path, "run", 100, 0, ["mine:Shaky"]) as log:
        for step in range(1, 31):
            monkeypatch.setattr(mine, "FAILS_FROM", 100 if step % 5 else 0)
            log.event({"step": step, "loss": 1.0})
    assert mine.ALL[0].asked == 30


def test_logs_are_named_by_the_registry_or_as_code():
    assert LogConfig().sinks == ("jsonl", "tensorboard")
    LogConfig(sinks=("jsonl", "mine:Shaky"))
    with pytest.raises(ConfigError, match=r"log\.sinks: unknown log 'tensorbord'; did you mean 'tensorboard'"):
        LogConfig(sinks=("tensorbord",))
    with pytest.raises(ConfigError, match="a name occurs twice"):
        LogConfig(sinks=("jsonl", "jsonl"))
