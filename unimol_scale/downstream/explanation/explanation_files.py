"""Writes explanations: a table of every atom, a picture of every molecule and target, and a page that shows them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from unimol_scale.common.files import commit_file, commit_text
from unimol_scale.common.report.html_page import html_page
from unimol_scale.common.report.markdown import markdown_table
from unimol_scale.common.units import counted
from unimol_scale.downstream.data.skipped_rows import write_skipped
from unimol_scale.downstream.depiction import draw_values
from unimol_scale.downstream.explanation.explain import ExplainedMolecule, Explanations
from unimol_scale.downstream.labels.new_columns import write_csv

TABLE_NAME, MARKDOWN_NAME, PAGE_NAME, PICTURES = "attributions.csv", "explanations.md", "explanations.html", "molecules"
MOST_DRAWN = 100  # pictures, with which a page has some megabytes


def write_explanations(folder: Path, found: Explanations) -> str:
    """Write ``attributions.csv``, pictures, ``explanations.md`` and ``explanations.html``; return lines for the user.

    The table has a line for every atom: ``row``, ``smiles_used``, ``atom`` (from 0, in the order of that SMILES),
    ``element``, and a column for each output of the model.

    Args:
        folder: is made if needed.
        found: what is to be written.

    Raises:
        OSError: the folder cannot be written.
    """
    commit_file(folder / TABLE_NAME, lambda temporary: write_csv(_table(found), temporary))
    lines = _lines(folder, found)
    text = "\n".join(lines) + "\n"
    commit_text(folder / MARKDOWN_NAME, text)
    commit_text(folder / PAGE_NAME, html_page(text, folder))
    if found.skipped:
        write_skipped(folder / "skipped.csv", found.skipped)
    skipped = f"; {counted(len(found.skipped), 'row')} skipped: {folder / 'skipped.csv'}" if found.skipped else ""
    said = f"{counted(len(found.molecules), 'molecule')} explained: {folder / PAGE_NAME}{skipped}"
    return "\n".join([said, *found.notes])


def _table(found: Explanations) -> pa.Table:
    each = found.molecules
    sizes = [len(one.attribution_AW) for one in each]
    attribution_AW = np.concatenate([one.attribution_AW for one in each])
    columns: dict[str, pa.Array] = {
        "row": pa.array(np.repeat([one.row for one in each], sizes)),
        "smiles_used": pa.array([one.smiles for one, size in zip(each, sizes, strict=True) for _ in range(size)]),
        "atom": pa.array(np.concatenate([np.arange(size) for size in sizes])),
        "element": pa.array([element for one in each for element in one.elements]),
    }
    columns |= {name: pa.array(attribution_AW[:, at]) for at, name in enumerate(found.config.outputs.names)}
    return pa.table(columns)


def _lines(folder: Path, found: Explanations) -> list[str]:
    config, outputs = found.config, found.config.outputs
    unit = "in the unit of the target" if config.task == "regression" else "in log-odds"
    lines = [
        f"# What {', '.join(config.targets)} is predicted from",
        "",
        "The number of an atom is what the prediction loses when the model is not told which element the atom is, with "
        f"its hydrogens ({unit}). Red: the atom raises the prediction; blue: it lowers it. They are what the model "
        "uses, not what nature does, and they do not add up to the prediction. All pictures of a target share one "
        "scale.",
        "",
        *(line for note in found.notes for line in (f"**{note}**", "")),
    ]
    drawn = max(1, MOST_DRAWN // len(outputs.names))
    shown = found.molecules[:drawn]
    for place, name in enumerate(outputs.names):
        largest = max(float(np.abs(one.attribution_AW[:, place]).max()) for one in shown)
        rows = list(_rows(folder, found, shown, place, largest))
        lines += [f"## {name}", "", *markdown_table(["molecule", "row", "prediction"], rows), ""]
    if len(shown) < len(found.molecules):
        lines.append(f"Pictures are of the first {len(shown):,} of {len(found.molecules):,}; {TABLE_NAME} has all.")
    return lines


def _rows(
    folder: Path, found: Explanations, shown: tuple[ExplainedMolecule, ...], place: int, largest: float
) -> Iterator[list[str]]:
    """Draw the molecules of one output, and yield their lines."""
    config = found.config
    unit = config.units.get(config.targets[place], "") if config.task == "regression" else ""
    for one in shown:
        picture = f"{PICTURES}/{one.row}-{place + 1}.svg"
        draw_values(folder / picture, one.smiles, one.attribution_AW[:, place], largest)
        yield [f"![]({picture}) `{one.smiles}`", str(one.row), f"{one.prediction_W[place]:.4g} {unit}".strip()]
