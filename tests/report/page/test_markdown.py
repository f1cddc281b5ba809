"""Tables in Markdown."""

from __future__ import annotations

from dpmi.report.page.cells import Table
from dpmi.report.page.markdown import pipe_table


def test_a_pipe_table_has_its_notes_below():
    assert pipe_table(Table("c", ("a",), [("1",)], ("n <", "m"))).endswith("| 1 |\n\nn &lt;\n\nm")


def test_a_pipe_table_keeps_its_columns():
    assert (
        pipe_table(Table("c", ("a", "b"), [("1|2", "3")])) == "c\n\n| a | b |\n| --- | --- |\n| 1\\|2 | 3 |"
    )
