"""Every set-up that the documentation names can be installed: its versions fit together. Only metadata is downloaded.

The pins and the default torch are installed where this runs, so they can be held against one another here. The package
index is asked for the rest: the other builds of torch that are named, and the extras.
"""

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[2]
CONSTRAINTS = REPOSITORY / "constraints.txt"
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
GPU_PYTHON = "3.12"  # of the machine with a GPU
SECONDS = 240
UNREACHABLE = ("Connection", "Retrying", "Temporary failure", "timed out", "SSLError", "ProxyError")


def pins(python: str) -> dict[str, str]:
    """Return the pinned version of every package on a Python."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line and not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    chosen = [pin for pin in found if pin.marker is None or pin.marker.evaluate(environment)]
    assert len({canonicalize_name(pin.name) for pin in chosen}) == len(chosen), "a package is pinned twice"
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in chosen}


def named_torches() -> set[str]:
    """Return what the Makefile and the documentation give as TORCH."""
    texts = [REPOSITORY / "Makefile", *REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    found = {torch for path in texts for torch in re.findall(r"TORCH='([^']+)'", path.read_text())}
    return found | {default_torch()}


def default_torch() -> str:
    """Return the torch that make installs unless told otherwise."""
    (torch,) = re.findall(r"^TORCH \?= (\S+)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    return torch


def extra(name: str) -> list[str]:
    """Return what pyproject.toml lists under an extra."""
    text = (REPOSITORY / "pyproject.toml").read_text()
    listed = re.search(rf"^{name} = (\[[^\]]*\])", text, re.MULTILINE)
    assert listed, f"there is no extra {name}"
    return re.findall(r'"([^"]+)"', listed[1])


def resolve(folder: Path, name: str, python: str, requirements: list[str], *, pinned: bool) -> subprocess.Popen[str]:
    """Start pip's resolver as if on Linux with a Python; it prints nothing but errors."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--retries", "1", "--target", str(folder / "nowhere")]
    command += ["--python-version", python, "--platform", "manylinux2014_x86_64", "--platform", "linux_x86_64"]
    for minor in range(17, 35):
        command += ["--platform", f"manylinux_2_{minor}_x86_64"]
    if pinned:
        file = folder / f"{name}.txt"
        file.write_text("".join(f"{package}=={version}\n" for package, version in pins(python).items()))
        command += ["-c", str(file)]
    return subprocess.Popen([*command, *requirements], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def resolved(tmp_path_factory):
    """What pip said about every combination, side by side."""
    folder = tmp_path_factory.mktemp("setup")
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    tools = ["pip", "setuptools", "wheel"]
    running = {}
    for torch in named_torches() - {default_torch()}:
        for python in {here, GPU_PYTHON}:
            name = f"{torch} on Python {python}, with the extra hub"
            running[name] = resolve(folder, f"pins-{python}", python, [torch, *tools, *extra("hub")], pinned=True)
    running["nvmolkit"] = resolve(folder, "nvmolkit", here, [*extra("nvmolkit"), "rdkit>=2024.9.1"], pinned=False)
    said = {}
    for name, process in running.items():
        try:
            _, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            errors = "timed out"
        said[name] = (process.wait(), errors)
    unreachable = [name for name, (status, errors) in said.items() if status and any(s in errors for s in UNREACHABLE)]
    if unreachable:
        pytest.skip(f"the package index cannot be reached, or is too slow, for {', '.join(unreachable)}")
    return said


def test_the_documentation_names_a_build_for_gpus():
    assert len(named_torches()) >= 2


def test_every_combination_that_is_named_can_be_resolved(resolved):
    for name, (status, errors) in resolved.items():
        reasons = [line for line in errors.splitlines() if not line.startswith("WARNING")]
        assert status == 0, "\n".join([name, *reasons])


@pytest.mark.parametrize("python", PYTHONS)
def test_no_pin_refuses_a_python_that_we_support(python):
    installed = pins(f"{sys.version_info.major}.{sys.version_info.minor}")
    for package, version in pins(python).items():
        if installed.get(package) != version:
            continue  # made for that Python; resolved once, by hand
        try:
            wants = importlib.metadata.metadata(package)["Requires-Python"]
        except importlib.metadata.PackageNotFoundError:
            continue
        assert wants is None or Requirement(f"python{wants.replace(' ', '')}").specifier.contains(f"{python}.18"), (
            package
        )


def test_pins_fit_one_another():
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    pinned = pins(python)
    for package in (*pinned, "torch"):
        try:
            needs = importlib.metadata.requires(package) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for need in map(Requirement, needs):
            version = pinned.get(canonicalize_name(need.name))
            if version is not None and (need.marker is None or need.marker.evaluate({"extra": ""})):
                assert need.specifier.contains(version, prereleases=True), f"{package} needs {need}, pinned {version}"
