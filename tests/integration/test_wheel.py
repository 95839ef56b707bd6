"""What a user has without a checkout: the wheel, installed in an environment of its own, used from empty folders."""

import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("conformer_gen", "unimol_scale")
TRAIN = {"warmup_steps": 1, "precision": "fp32", "global_batch_size": 8, "rehearse": False}
SETTINGS = {"train": TRAIN, "data": {"workers": 0}}


def run(*words: object, cwd: Path) -> str:
    """Run a command that must succeed, without what this process knows of the checkout; return what it says."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, words)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "copy"
    for package in PACKAGES:
        shutil.copytree(REPOSITORY / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", place, copy, cwd=place)
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the commands of an environment that has the wheel, and the libraries that these tests have."""
    environment = tmp_path_factory.mktemp("environment") / "env"
    venv.create(environment, with_pip=False)
    folder = environment / "bin"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder / "python"]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=environment)
    # Behind its own packages. An editable installation among those libraries does not come along: a folder named in
    # this way does not have its .pth files read.
    (own,) = environment.glob("lib/python*/site-packages")
    libraries = [
        path for path in (*site.getsitepackages(), *sys.path) if path.endswith(("site-packages", "dist-packages"))
    ]
    (own / "libraries.pth").write_text("\n".join(dict.fromkeys(libraries)) + "\n")
    return folder


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.partition("/")[0] in PACKAGES}
    there = {path for package in PACKAGES for path in (REPOSITORY / package).rglob("*") if path.is_file()}
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in there if "__pycache__" not in path.parts}
    assert held == wanted
    assert {f"{package}/py.typed" for package in PACKAGES} <= held


def test_a_wheel_builds_trains_climbs_and_fits_in_an_empty_folder(commands: Path, tmp_path: Path) -> None:
    where = run(
        commands / "python", "-c", "import conformer_gen, unimol_scale as u; print(conformer_gen.__file__, u.__file__)",
        cwd=tmp_path,
    ).split()  # fmt: skip
    assert all(Path(file).is_relative_to(commands.parent) for file in where), where

    command = commands / "unimol-scale"
    run(command, "build", "--source", "sample", "--workers", 1, "source.limit=60", cwd=tmp_path)
    assert (tmp_path / "data" / "sample" / "manifest.json").is_file()

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(SETTINGS))
    first, second = (f"tiny-0.03M-2steps-seed{seed}" for seed in (0, 1))
    told = run(
        command,
        "pretrain",
        "--size",
        "0.03M",
        "--config",
        "run.yaml",
        "--output",
        f"runs/{first}",
        "train.steps=2",
        cwd=tmp_path,
    )
    assert f"runs/{first}/summary.json" in told

    # A ladder that was begun otherwise goes on: its first run is there already.
    ladder = {"name": "tiny", "data": "data/sample", "launcher": "python", "sizes": ["0.03M"], "steps": [2]}
    (tmp_path / "ladder.yaml").write_text(yaml.safe_dump({**ladder, "seeds": [0, 1], "overrides": SETTINGS}))
    told = run(command, "ladder", "ladder.yaml", cwd=tmp_path)
    assert f"run 1 of 2, {first}: already finished" in told
    assert (tmp_path / "runs" / second / "summary.json").is_file()

    rows = [f"{size:.0f},1e6,{3.0 + 2000 / size**0.5:.6f}" for size in (1e5, 3e5, 1e6, 3e6, 1e7, 3e7)]
    (tmp_path / "runs.csv").write_text("N,D,loss\n" + "\n".join(rows) + "\n")
    told = run(command, "fit-scaling-law", "runs.csv", "--bootstrap", 20, cwd=tmp_path)
    assert "report: reports/scaling-law/report.md" in told
    assert (tmp_path / "reports" / "scaling-law" / "law.json").is_file()
