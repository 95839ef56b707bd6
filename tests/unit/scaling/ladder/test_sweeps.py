"""Ladders over learning rates and batches: which runs there are, and that --rates reads them as sweeps."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.pretend_training import calls, make_place
from unimol_scale.cli.main import main
from unimol_scale.errors import ConfigError
from unimol_scale.scaling.ladder import ladder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_place(tmp_path)
    return tmp_path


def rungs(place: Path, **changes: Any) -> list[ladder.Rung]:
    path = place / "ladder.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "seeds": [0], **changes}))
    return ladder.plan(ladder.read_ladder(path))


def test_every_factor_multiplies_the_rate_of_the_size(place: Path) -> None:
    sizes = {"size_overrides": {"1M": {"train": {"learning_rate": 4.0e-4}}}}
    found = rungs(place, rate_factors=[0.5, 1, 2], **sizes)
    assert [(rung.name, rung.overrides["train.learning_rate"]) for rung in found] == [
        ("try-0.1M-20steps-lr0.0005-seed0", 5e-4),
        ("try-0.1M-20steps-lr0.001-seed0", 1e-3),
        ("try-0.1M-20steps-lr0.002-seed0", 2e-3),
        ("try-1M-20steps-lr0.0002-seed0", 2e-4),
        ("try-1M-20steps-lr0.0004-seed0", 4e-4),
        ("try-1M-20steps-lr0.0008-seed0", 8e-4),
    ]


def test_batches_share_the_molecules_and_differ_in_steps(place: Path) -> None:
    found = rungs(place, steps=[], molecules=[1280], batch_sizes=[32, 64], sizes=["0.1M"])
    assert [(rung.name, rung.steps, rung.overrides["train.global_batch_size"]) for rung in found] == [
        ("try-0.1M-40steps-batch32-seed0", 40, 32),
        ("try-0.1M-20steps-batch64-seed0", 20, 64),
    ]


def test_every_rate_has_a_trunk_of_its_own(place: Path) -> None:
    found = rungs(place, schedule="wsd", steps=[50, 100], sizes=["0.1M"], rate_factors=[1, 2])
    trunks = {rung.name: rung.overrides["train.learning_rate"] for rung in found if rung.is_trunk}
    assert trunks == {"try-0.1M-trunk-lr0.001-seed0": 1e-3, "try-0.1M-trunk-lr0.002-seed0": 2e-3}
    for rung in found:
        if rung.trunk is not None:
            assert rung.overrides["train.learning_rate"] == trunks[rung.trunk]


def test_a_sweep_is_climbed_like_any_ladder(place: Path) -> None:
    rungs(place, rate_factors=[1, 4], sizes=["0.1M"])
    assert main(["ladder", "ladder.yaml"]) == 0
    assert calls(place) == ["try-0.1M-20steps-lr0.001-seed0", "try-0.1M-20steps-lr0.004-seed0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate_factors": [1, 1]}, "without repeats"),
        ({"rate_factors": [0]}, "must be positive"),
        ({"rate_factors": [1, 1.0001]}, "lie further apart"),
        ({"rate_factors": [1, 2], "overrides": {}}, "needs a train.learning_rate"),
        ({"rate_factors": [1, 2], "rate_law": "law.json"}, "leave out one of the two"),
        ({"batch_sizes": [32], "overrides": {"train": {"global_batch_size": 8}}}, "set by the ladder itself"),
    ],
)
def test_a_sweep_that_can_not_be_made_is_refused(place: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rungs(place, **change)
