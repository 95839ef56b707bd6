"""Tables and lines in Markdown."""

import re

from markdown_it import MarkdownIt

from unimol_scale.common.report.markdown import markdown_line, markdown_table


def test_a_bar_in_a_cell_stays_in_its_cell() -> None:
    assert markdown_table(["name", "a|b"], [["x", "1"], ["y|z", ""]]) == [
        "| name | a\\|b |",
        "| --- | --- |",
        "| x | 1 |",
        "| y\\|z |  |",
    ]


def test_a_message_with_smiles_is_shown_as_it_is() -> None:
    text = "row 64 without O=[N+]([O-])[O-], *C or C*; see `predict [x](y)`"
    shown = re.sub("<[^>]*>", "", MarkdownIt("commonmark", {"html": False}).render(markdown_line(text)))
    assert shown.strip() == text.replace("`", "")
