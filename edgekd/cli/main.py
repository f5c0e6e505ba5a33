"""The `edgekd` command line: every command is registered here, and nothing heavy is imported."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekd import __version__
from edgekd.cli.commands import cache, fleet, latency, methods, probe, profile, recipes, report, ship, targets
from edgekd.cli.commands.build import build
from edgekd.cli.commands.compare import compare
from edgekd.cli.commands.distill import distill
from edgekd.cli.commands.doctor import doctor
from edgekd.cli.commands.export import export
from edgekd.cli.commands.quantize import quantize
from edgekd.cli.commands.schema import schema
from edgekd.cli.commands.search import search
from edgekd.cli.console import Verbosity
from edgekd.cli.failure import ReportingGroup
from edgekd.cli.outcome import delivering

app = typer.Typer(
    name="edgekd",
    cls=ReportingGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"edgekd {__version__}")
        raise typer.Exit


@app.callback()
def edgekd(
    context: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Distil a network under a latency budget, export it, measure it and pack it.

    Results go to stdout, progress and errors to stderr.

    Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 a gate missed, 4 target unreachable or incompatible,
    5 something needed is missing on this machine, 6 not trusted, 130 interrupted.
    """
    context.obj = Verbosity(is_quiet=quiet, is_verbose=verbose)


app.command("distill")(delivering(distill))
app.command("search")(delivering(search))
app.command("export")(delivering(export))
app.command("quantize")(delivering(quantize))
app.command("build")(delivering(build))
app.command("compare")(delivering(compare))
app.add_typer(profile.app, name="profile")
app.add_typer(ship.app, name="ship")
app.add_typer(report.app, name="report")
app.add_typer(methods.app, name="methods")
app.add_typer(probe.app, name="probe")
app.add_typer(recipes.app, name="recipes")
app.add_typer(cache.app, name="cache")
app.add_typer(latency.app, name="latency")
app.add_typer(targets.app, name="targets")
app.add_typer(fleet.app, name="fleet")
app.command("schema")(delivering(schema))
app.command("doctor")(delivering(doctor))


def main() -> None:
    """Run the command line of this process and exit."""
    app()
