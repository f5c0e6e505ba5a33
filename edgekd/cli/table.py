"""Columns of text, aligned, the same on a terminal and in a file."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align rows under a header.

    Args:
        header: Column titles.
        rows: Cells; as many in each row as the header has.

    Returns:
        Lines without trailing blanks, columns two blanks apart.
    """
    lines = [header, ["-" * len(title) for title in header], *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
