"""`edgekd fleet`: releases brought to many devices, in waves."""

from __future__ import annotations

import typer

from edgekd.cli.commands.fleet.deploy import deploy
from edgekd.cli.commands.fleet.history import history
from edgekd.cli.commands.fleet.init import init
from edgekd.cli.commands.fleet.provision import provision
from edgekd.cli.commands.fleet.rollback import rollback
from edgekd.cli.commands.fleet.status import status
from edgekd.cli.commands.fleet.unlock import unlock
from edgekd.cli.outcome import delivering

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Bring signed releases to many devices over SSH: in waves, with halt rules, resumable, written down.",
)

app.command("init")(delivering(init))
app.command("provision")(delivering(provision))
app.command("status")(delivering(status))
app.command("deploy")(delivering(deploy))
app.command("rollback")(delivering(rollback))
app.command("history")(delivering(history))
app.command("unlock")(delivering(unlock))
