"""Writes explanations: a table of all atoms, a picture per molecule and target, and a page that shows them."""

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
MOST_DRAWN = 100  # largest number of pictures; a page with so many has some megabytes


def write_explanations(folder: Path, found: Explanations) -> str:
    """Write ``attributions.csv``, pictures, ``explanations.md`` and ``explanations.html``; return lines for the user.

    The table has one line per atom: ``row``, ``smiles_used``, ``atom`` (from 0, in the order of that SMILES),
    ``element``, and a column for each output of the model.

    Args:
        folder: output folder; made if it is missing.
        found: the explanations.

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
        f"# Which atoms the predictions of {', '.join(config.targets)} depend on",
        "",
        "The number at an atom is the change of the prediction caused by that atom: the prediction minus the "
        f"prediction with the atom and its hydrogens hidden from the model ({unit}). Red: the atom raises the "
        "prediction; blue: it lowers it. The numbers describe the model, not the chemistry behind it, and they do not "
        "add up to the prediction. All pictures of a target share one colour scale.",
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
        lines.append(
            f"Pictures show the first {len(shown):,} of {len(found.molecules):,} molecules; {TABLE_NAME} has all."
        )
    return lines


def _rows(
    folder: Path, found: Explanations, shown: tuple[ExplainedMolecule, ...], place: int, largest: float
) -> Iterator[list[str]]:
    """Draw the molecules for one output, and yield their rows of the table."""
    config = found.config
    unit = config.units.get(config.targets[place], "") if config.task == "regression" else ""
    for one in shown:
        picture = f"{PICTURES}/{one.row}-{place + 1}.svg"
        draw_values(folder / picture, one.smiles, one.attribution_AW[:, place], largest)
        yield [f"![]({picture}) `{one.smiles}`", str(one.row), f"{one.prediction_W[place]:.4g} {unit}".strip()]
