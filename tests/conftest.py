"""Fixtures for every test. Nothing here is imported from the project before a test asks for it."""

from pathlib import Path

import pytest

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
    from conformer_gen import driver
    from conformer_gen.config import BuildConfig
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
