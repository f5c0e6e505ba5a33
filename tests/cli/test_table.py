"""Columns line up."""

from edgekd.cli.table import format_table


def test_table_aligns_columns_without_trailing_blanks():
    assert format_table(("a", "long title"), [("wide cell", "x"), ("", "")]) == (
        "a          long title\n-          ----------\nwide cell  x\n"
    )


def test_table_without_rows_is_its_header():
    assert format_table(("ab", "c"), []) == "ab  c\n--  -"
