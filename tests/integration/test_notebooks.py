"""The notebooks of the documentation run from start to end, and the site has their outputs."""

import importlib.util
from pathlib import Path

import nbformat
import pytest

from tests.helpers.notebooks import NOTEBOOKS, REPOSITORY, execute

GENERATOR = REPOSITORY / "docs" / "_generate" / "notebook_pages.py"


def site_pages(folder: Path) -> dict[str, str | bytes]:
    """Return what the site makes of the notebooks of a folder."""
    spec = importlib.util.spec_from_file_location("notebook_pages", GENERATOR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.pages(folder, "notebooks"))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_cell_runs(path, tmp_path):
    executed = execute(path, tmp_path)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_says_what_it_is_for_and_shows_its_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert "After this notebook" in cells[0].source
    text = path.read_text(encoding="utf-8")
    assert "image/png" in text
    assert '"name": "stderr"' not in text, "a warning is among the outputs"
    page = site_pages(path.parent)[f"notebooks/{path.stem}.md"]
    for cell in cells:
        assert cell.cell_type == "markdown" or cell.source in page


def test_the_site_wraps_sentences_that_were_printed_but_no_tables(tmp_path):
    cell = nbformat.v4.new_code_cell("print(...)", execution_count=1)
    for text in ("A long sentence.", "N    loss\n10   0.5"):
        cell.outputs = [nbformat.v4.new_output("stream", text=text)]
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "new.ipynb")
        assert (".columns }" in site_pages(tmp_path)["notebooks/new.md"]) == ("loss" in text)


def test_the_site_refuses_a_notebook_that_was_not_executed_or_failed(tmp_path):
    cell = nbformat.v4.new_code_cell("1 / 0")
    path = tmp_path / "new.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(ValueError, match=r"cell 0 was not executed: run python -m tests.helpers.notebooks new"):
        site_pages(tmp_path)
    cell.execution_count = 1
    cell.outputs = [nbformat.v4.new_output("error", ename="ZeroDivisionError", evalue="division by zero")]
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    with pytest.raises(ValueError, match="cell 0 failed: ZeroDivisionError"):
        site_pages(tmp_path)
