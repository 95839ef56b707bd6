"""The defaults of blend became the paper's: new runs have them, and runs of earlier versions go on with their own."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPOSITORY
from unimol_scale.config import Origin, read_settings, to_yaml
from unimol_scale.engine.run.extension import resolve_extended
from unimol_scale.engine.run.resume import all_settings, changed_settings
from unimol_scale.engine.run.run_config import PretrainConfig, resolve
from unimol_scale.engine.run.settings_changes import settings_in

BLEND = ("objective.name=blend",)
MIXTURE = ("objective.name=mixture", "objective.mixture.denoise=0.5", "objective.mixture.blend=0.5")
TODAY = {"symmetric": False, "show_degree": True, "atom_features": "all", "heads": "separate"}
FORMER = {"symmetric": True, "show_degree": False, "atom_features": "own", "heads": "shared"}


def resolved(*assignments: str, output: Path | str = "run") -> PretrainConfig:
    flags = {"data": {"path": "store"}, "output": str(output)}
    return resolve("0.1M", *read_settings(None, flags, ["train.warmup_steps=0", *assignments]))


def chosen(config: PretrainConfig) -> tuple[dict[str, object], str]:
    return {name: getattr(config.objective.blend, name) for name in TODAY}, config.model.edges


def written_earlier(folder: Path, objective: tuple[str, ...]) -> None:
    """Make a run folder of a version without heads, edges, full and planar molecules."""
    former = [f"objective.blend.{name}={str(value).lower()}" for name, value in FORMER.items()]
    tree = yaml.safe_load(to_yaml(resolved(*objective, "model.edges=bond", *former)))
    for name in ("heads", "full_fraction", "planar_fraction"):
        del tree["objective"]["blend"][name]
    del tree["model"]["edges"]
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))


@pytest.mark.parametrize("objective", [BLEND, MIXTURE])
def test_a_new_run_has_the_choices_of_the_paper_unless_others_are_given(objective):
    assert chosen(resolved(*objective)) == (TODAY, "path")
    assert chosen(resolved(*objective, "model.edges=bond", "objective.blend.heads=shared")) == (
        {**TODAY, "heads": "shared"},
        "bond",
    )
    assert resolved().model.edges == "bond"


@pytest.mark.parametrize("objective", [BLEND, MIXTURE])
def test_the_command_that_began_a_run_goes_on_with_what_it_was_begun_with(objective, tmp_path):
    folder = tmp_path / "run"
    written_earlier(folder, objective)
    again = resolved(*objective, output=folder)
    assert chosen(again) == (FORMER, "bond")
    assert not changed_settings(settings_in(folder), all_settings(again))
    # What is asked for now is told, with what it was.
    other = resolved(*objective, "model.edges=path", "objective.blend.heads=separate", output=folder)
    assert changed_settings(settings_in(folder), all_settings(other)) == {
        "model.edges": ("bond", "path"),
        "objective.blend.heads": ("shared", "separate"),
    }
    extended = resolve_extended(
        5, None, {"output": str(folder)}, Origin(name="command line").with_given({"output": str(folder)})
    )
    assert chosen(extended) == (FORMER, "bond")
    # A run of today goes on as it was begun too.
    begun = resolved(*objective, "model.edges=bond")
    (folder / "config.yaml").write_text(to_yaml(begun))
    assert chosen(resolved(*objective, output=folder)) == (TODAY, "bond")


@pytest.mark.parametrize("name", ["blend-stopped", "mixture-stopped"])
def test_runs_on_disk_keep_their_settings(name, tmp_path):
    (original,) = (REPOSITORY / "tests" / "earlier").glob(f"2026-11-28/runs/{name}")
    shutil.copytree(original, tmp_path / name)
    recorded = settings_in(tmp_path / name)
    given = [f"{key}={recorded[key]}" for key in recorded if key.startswith("objective.mixture.")]
    again = resolved(f"objective.name={recorded['objective.name']}", *given, output=tmp_path / name)
    assert chosen(again) == (FORMER, "bond")
    assert again.objective_sha256 == resolved(
        f"objective.name={recorded['objective.name']}", *given, "model.edges=bond",
        *(f"objective.blend.{key}={str(value).lower()}" for key, value in FORMER.items()),
    ).objective_sha256  # fmt: skip


def test_an_objective_of_today_is_not_taken_for_a_former_one():
    hashes = {resolved(*BLEND, *more).objective_sha256 for more in (
        (), ("objective.blend.heads=shared",), ("objective.blend.full_fraction=0.1",),
        ("objective.blend.planar_fraction=0.1",), ("objective.blend.symmetric=true",),
    )}  # fmt: skip
    assert len(hashes) == 5
