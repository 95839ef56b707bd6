"""Tables in Markdown."""

from unimol_scale.common.report.markdown import markdown_table


def test_a_bar_in_a_cell_stays_in_its_cell() -> None:
    assert markdown_table(["name", "a|b"], [["x", "1"], ["y|z", ""]]) == [
        "| name | a\\|b |",
        "| --- | --- |",
        "| x | 1 |",
        "| y\\|z |  |",
    ]
