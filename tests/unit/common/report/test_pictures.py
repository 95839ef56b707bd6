"""Pictures go into files whole, and the same picture has the same bytes."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from tests.helpers.full_disk import files_no_larger_than
from unimol_scale.common.report.pictures import BLUE, draw_grid, save_figure


def picture() -> Figure:
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.plot([1, 2], [2, 1], color=BLUE)
    draw_grid(axes, "y")
    return figure


def test_the_same_picture_has_the_same_bytes_and_does_not_name_its_maker(tmp_path: Path) -> None:
    for name in ("one.png", "new/two.png"):
        save_figure(picture(), tmp_path / name)
    data = (tmp_path / "one.png").read_bytes()
    assert data == (tmp_path / "new" / "two.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    assert b"Software" not in data


def test_a_picture_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with files_no_larger_than(100), pytest.raises(OSError, match="too large"):
        save_figure(picture(), path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
