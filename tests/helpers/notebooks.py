"""Executes the notebooks of the documentation, each in a folder of its own that looks like docs/notebooks.

``python -m tests.helpers.notebooks [NAME …]`` writes the outputs into the notebooks; without names, into all.
"""

import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))
SECONDS = 500  # that one cell may take, on a busy machine


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Return a notebook with the outputs of its cells.

    Args:
        path: of the notebook.
        folder: an empty one. What the notebook writes stays there.

    Raises:
        CellExecutionError: a cell raised.
    """
    place = folder / "docs" / "notebooks"
    place.mkdir(parents=True)
    (folder / "benchmarks").symlink_to(REPOSITORY / "benchmarks")
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", record_timing=False, resources={"metadata": {"path": place}}
    )
    modules = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    client.execute(env={**os.environ, "PYTHONPATH": modules})
    return notebook


def write_outputs(path: Path) -> None:
    """Execute a notebook and store it with its outputs, without what differs between machines."""
    with tempfile.TemporaryDirectory() as folder:
        notebook = execute(path, Path(folder))
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for chosen in [path for path in NOTEBOOKS if path.stem in sys.argv[1:] or not sys.argv[1:]]:
        print(chosen.name, flush=True)
        write_outputs(chosen)
