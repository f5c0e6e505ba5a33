"""`edgekd profile`: measure here, import what a board measured, compare two profiles."""

from __future__ import annotations

import typer

from edgekd.cli.commands.profile.compare import compare
from edgekd.cli.commands.profile.importing import import_files
from edgekd.cli.commands.profile.measure import measure
from edgekd.cli.default_command import MeasuringGroup
from edgekd.cli.outcome import delivering

app = typer.Typer(
    cls=MeasuringGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Measure a network, import what a board measured, compare two profiles.\n\n"
    "`edgekd profile net.onnx` is short for `edgekd profile measure net.onnx`.",
)

app.command("measure")(delivering(measure))
app.command("import")(delivering(import_files))
app.command("compare")(delivering(compare))
