"""`edgekd ship`: pack bundles, look into them, publish them signed, and look after the keys."""

from __future__ import annotations

import typer

from edgekd.cli.commands.ship import keys
from edgekd.cli.commands.ship.bundles import inspect, pack, verify
from edgekd.cli.commands.ship.program import agent
from edgekd.cli.commands.ship.publishing import export, publish, refresh, withdraw
from edgekd.cli.outcome import delivering

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Pack bundles, publish them signed for groups of devices, and look after the keys.",
)

app.command("pack")(delivering(pack))
app.command("inspect")(delivering(inspect))
app.command("verify")(delivering(verify))
app.command("publish")(delivering(publish))
app.command("export")(delivering(export))
app.command("refresh")(delivering(refresh))
app.command("withdraw")(delivering(withdraw))
app.command("agent")(delivering(agent))
app.add_typer(keys.app, name="keys")
