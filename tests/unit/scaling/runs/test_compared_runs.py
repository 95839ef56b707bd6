"""``runs compare`` shows what differs and nothing else, and draws the curves."""

import matplotlib.image
import pytest

from tests.helpers.simulated_runs import write_run
from unimol_scale.cli.main import main
from unimol_scale.errors import RunError
from unimol_scale.scaling.runs.compared_runs import compare_runs, result_rows, setting_rows


@pytest.fixture
def runs(tmp_path):
    for name, size, rate in (("small", "0.1M", "1.0e-3"), ("large", "1M", "2.0e-3")):
        folder = write_run(tmp_path / name / "run", size, 100)
        lines = f"size: {size}\noutput: {folder}\ntrain: {{steps: 100, learning_rate: {rate}}}\n"
        (folder / "config.yaml").write_text(lines)
    return tmp_path


def test_settings_that_differ_and_losses_stand_side_by_side(runs):
    found = compare_runs([runs / "large", runs / "small"])
    assert [one.name for one in found] == ["large/run", "small/run"]
    assert setting_rows(found) == [["size", "1M", "0.1M"], ["train.learning_rate", "0.002", "0.001"]]
    results = {row[0]: row[1:] for row in result_rows(found)}
    assert results["steps"] == ["100", "100"]
    assert results["validation loss"] == [f"{one.listed.loss:.4f}" for one in found]
    assert float(results["validation loss"][0]) < float(results["validation loss"][1])
    assert set(results) >= {"validation loss, token", "validation loss, distance", "state", "time"}
    assert len(found[0].valid[0]) == len(found[0].train[1]) == 10
    with pytest.raises(RunError, match="at least two runs"):
        compare_runs([runs / "large"])


def test_the_command_prints_both_and_writes_a_picture(runs, tmp_path, capsys):
    assert main(["runs", "compare", str(runs), "--output", str(tmp_path / "p" / "curves.png")]) == 0
    said = capsys.readouterr().out
    assert "train.learning_rate" in said
    assert "curves: " in said
    assert min(matplotlib.image.imread(tmp_path / "p" / "curves.png").shape[:2]) > 300
    assert main(["runs", "compare", str(runs), "--output", "curves.svg"]) == 2
