"""`edgekd report`: what a run found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.outcome import Outcome, delivering

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What a run found.")


@app.callback()
def report() -> None:
    """Read what a run found."""


def show_report(run: Annotated[Path, typer.Argument(help="A run folder, or its report.json.")]) -> Outcome:
    """Print the report of a run; with --json the checked content of its report.json.

    Example:
      edgekd report show runs/demo
    """
    from edgekd.cli.report_text import report_text
    from edgekd.report import read_report

    found = read_report(run)
    page = (run if run.is_dir() else run.parent) / "report.html"
    shown = f"{report_text(found)}\n\n{page}" if page.is_file() else report_text(found)
    return Outcome(found.model_dump(mode="json"), shown)


app.command("show")(delivering(show_report))
