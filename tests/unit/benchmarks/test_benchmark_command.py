"""What a benchmark writes of the command that started it."""

import pytest

from benchmarks.common import as_started


def test_a_result_names_its_command_without_folders_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fit.py", "/somewhere/points of 2024.csv", "--draws", "40", "data/x"])
    command = as_started("python -m benchmarks.scaling.fit")
    assert command == "python -m benchmarks.scaling.fit 'points of 2024.csv' --draws 40 data/x"


def test_neither_does_a_name_with_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["gains.py", "--start", "a=/somewhere/2M", "--start=b=/somewhere/4M", "x=1"])
    assert as_started("python -m gains") == "python -m gains --start a=2M --start=b=4M x=1"
