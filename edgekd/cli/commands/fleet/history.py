"""`edgekd fleet history`: the audit log, and whether it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.fleet_site import FleetFile, open_site
from edgekd.cli.outcome import Outcome
from edgekd.cli.table import format_table
from edgekd.core.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from edgekd.ship.fleet import Verdict


def history(
    *,
    fleet: FleetFile = ".",  # type: ignore[assignment]
    device: Annotated[str | None, typer.Option(help="Only records of this device.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many of the newest.")] = 50,
    verify: Annotated[bool, typer.Option("--verify", help="Check the chain; exit code 6 when it is broken.")] = False,
    expect: Annotated[
        str | None, typer.Option(help="Head that an earlier --verify printed: the log must still contain it.")
    ] = None,
) -> Outcome:
    """Show what happened to devices: who, what, from, to, with what result, in how many seconds.

    Each record is bound to the one before it. Note the head elsewhere: with it, a log that was cut off is found too.

    Examples:
      edgekd fleet history --device orin-3
      edgekd fleet history --verify
    """
    if expect and not verify:
        raise ConfigError("--expect goes with --verify")
    site = open_site(fleet, None)
    if verify:
        return _verdict(site.books.log.verify(expect))
    records = [record for record in site.books.log.read() if device in (None, record.get("device_id"))][-limit:]
    keys = ("time", "who", "device_id", "result", "from", "to", "seconds", "reason")
    rows = [tuple(str(record.get(key, "")) or "-" for key in keys) for record in records]
    header = ("time", "who", "device", "result", "from", "to", "seconds", "reason")
    return Outcome({"records": records}, format_table(header, rows) if rows else "nothing has happened yet")


def _verdict(verdict: Verdict) -> Outcome:
    document = {
        "is_whole": verdict.is_whole,
        "records": verdict.records,
        "head": verdict.head,
        "broken_at": verdict.broken_at,
        "problem": verdict.problem or None,
    }
    if verdict.is_whole:
        return Outcome(document, f"whole: {verdict.records} records, head {verdict.head}")
    text = f"broken at record {verdict.broken_at}: {verdict.problem}; {verdict.records} records before it hold"
    return Outcome(document, text, ExitCode.TRUST)
