"""Outputs that cannot be written are refused before any work, with the place and what to do; nothing is left behind."""

from pathlib import Path

import pytest

from unimol_scale.cli.main import main
from unimol_scale.common.output_checks import require_file, require_folder
from unimol_scale.errors import ConfigError


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    require_folder(tmp_path / "a" / "b")
    require_file(tmp_path / "a" / "b.csv")
    (tmp_path / "there").mkdir()
    require_folder(tmp_path / "there")
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--output: .*/file is a file, not a folder; choose another place"):
        require_folder(tmp_path / "file")
    with pytest.raises(ConfigError, match=r"/file is a file, not a folder, so .*/file/a/b cannot be made"):
        require_folder(tmp_path / "file" / "a" / "b")
    with pytest.raises(ConfigError, match="is a folder; give the name of a file"):
        require_file(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="is a link to nothing"):
        require_folder(tmp_path / "link" / "a")


def test_a_folder_that_takes_no_files_is_named() -> None:
    if not Path("/proc/self").exists():
        pytest.skip("there is no folder here that even root cannot write")
    with pytest.raises(ConfigError, match=r"--output: nothing can be written in /proc .*choose another place"):
        require_folder(Path("/proc/run"))


@pytest.mark.parametrize(
    "command",
    [
        ["store", "convert", "missing", "--backend", "lmdb", "--output"],
        ["checkpoint", "export", "missing", "--format", "safetensors", "--output"],
        ["checkpoint", "import", "missing", "--output"],
        ["fit-scaling-law", "missing", "--output"],
        ["ladder", "--next", "missing", "--output"],
    ],
)
def test_commands_look_before_they_work(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], sample_store: Path
) -> None:
    (tmp_path / "file").touch()
    command = [str(sample_store) if word == "missing" and command[0] == "store" else word for word in command]
    assert main([*command, str(tmp_path / "file" / "out")]) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
