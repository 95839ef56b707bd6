"""A report becomes one file that asks for nothing from elsewhere, whatever names are in it."""

import pytest
from matplotlib.figure import Figure

from unimol_scale.common.report.html_page import html_page
from unimol_scale.common.report.pictures import save_figure


def test_pictures_are_put_in_and_names_cannot_add_anything(tmp_path):
    (tmp_path / "one.png").write_bytes(b"\x89PNG")
    page = html_page(
        "# A <script>alert(1)</script> & B\n\n![](one.png)\n\n![x](https://example.org/a.png)\n\n`C[C@@H](O)C`\n",
        tmp_path,
    )
    assert "<script>" not in page
    assert "<title>A &lt;script&gt;" in page
    assert '<img src="data:image/png;base64,iVBORw==" alt="" />' in page
    assert page.count("<img") == 1
    assert "<code>C[C@@H](O)C</code>" in page
    assert page.startswith("<!DOCTYPE html>")
    assert "width=device-width" in page


def test_tables_with_pictures_become_cards_whose_cells_say_what_they_are(tmp_path):
    (tmp_path / "a.svg").write_text("<svg/>")
    page = html_page("| one | two |\n| --- | --- |\n| ![](a.svg) | 5 |\n\n| x |\n| --- |\n| 1 |\n", tmp_path)
    assert '<div class="scroll cards"><table>' in page
    assert '<td data-label="two">5</td>' in page
    assert '<div class="scroll"><table>' in page
    assert "<td>1</td>" in page
    pair = html_page("| one | two |\n| --- | --- |\n| ![](a.svg) | ![](a.svg) |\n", tmp_path)
    assert '<div class="scroll cards pairs"><table>' in pair  # smaller pictures, or the table would be cut off
    with pytest.raises(FileNotFoundError):
        html_page("![](missing.png)", tmp_path)


def test_a_wide_picture_scrolls_on_a_phone_and_a_small_one_does_not(tmp_path):
    for name, width in (("wide", 7.2), ("small", 4.2)):
        save_figure(Figure(figsize=(width, 1.0)), tmp_path / f"{name}.png")
    page = html_page("![](wide.png)\n\n![](small.png)\n", tmp_path)
    assert page.count('<span class="wide" style="--natural: 936px"><img') == 1
    assert page.count('<span class="wide"') == 1
