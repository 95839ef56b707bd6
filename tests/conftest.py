"""Fixtures for every test. What is heavy is imported when a test asks for it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from unimol_scale.common.machine.threads import wait_passively

# Before any test imports torch; the processes that tests start inherit it. A busy machine costs little time then.
wait_passively()
# Before any test imports Triton, whose own functions are then for its interpreter too.
os.environ.setdefault("TRITON_INTERPRET", "1")

# An example may take any time: the machine may be busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLE_ROWS = 205
SAMPLE_TASK_SIZE = 50


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; tests that need it skip where it is absent."""
    path = REPOSITORY.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the shared data folder is not there")
    return path


@pytest.fixture(scope="session")
def sample_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished store of about 200 real molecules (sample source, seed 0), built once; do not write into it."""
    from conformer_gen.config import BuildConfig
    from conformer_gen.run import driver
    from conformer_gen.sources.reader import SourceConfig

    config = BuildConfig(
        source=SourceConfig(name="sample", limit=SAMPLE_ROWS),
        output=tmp_path_factory.mktemp("sample") / "store",
        workers=1,
        task_size=SAMPLE_TASK_SIZE,
    )
    return driver.build(config).store.path


@pytest.fixture(scope="session")
def shared_golden(shared_data: Path) -> Path:
    """Reference outputs of the public model; tests that need them are skipped where they are absent."""
    golden = shared_data.parent / "golden" / "official-a"
    if not golden.is_dir():
        pytest.skip("the reference outputs of the public model are not here")
    return golden


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that gives a disk in memory of some size ("12m"); what is on it stays when it grows."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = False

    def sized(size: str) -> Path:
        nonlocal mounted
        how = ["-o", f"remount,size={size}"] if mounted else ["-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        try:
            result = subprocess.run(["mount", *how, str(path)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if result.returncode:
            pytest.skip(f"mounting is not permitted: {result.stderr.strip()}")
        mounted = True
        return path

    yield sized
    if mounted:
        subprocess.run(["umount", str(path)], check=True)
