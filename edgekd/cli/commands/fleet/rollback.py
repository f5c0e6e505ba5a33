"""`edgekd fleet rollback`: devices back to what they ran before."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekd.cli.fleet_live import fleet_progress
from edgekd.cli.fleet_site import Devices, FleetFile, InGroup, Labels, Owner, open_site
from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ConfigError


def rollback(
    context: typer.Context,
    devices: Devices = None,
    *,
    fleet: FleetFile = ".",  # type: ignore[assignment]
    group: InGroup = None,
    label: Labels = None,
    every: Annotated[bool, typer.Option("--all", help="Every device of the fleet.")] = False,
    owner: Owner = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which devices, touch nothing.")] = False,
) -> Outcome:
    """Send devices back to the generation they ran before: at once, without waves, nothing is transferred.

    What they leave is marked as bad there, so no deploy brings it back; publish an earlier bundle, so that what is
    desired agrees.

    Examples:
      edgekd fleet rollback orin-3
      edgekd fleet rollback --group line-a
    """
    import asyncio

    from edgekd.cli.fleet_text import result_document, results_text
    from edgekd.ship.fleet import exit_code_of, fleet_lock, roll_back

    if not (devices or group or label or every):
        raise ConfigError("say which devices: by name, with --group, with --label, or --all")
    site = open_site(fleet, owner)
    chosen = site.chosen(devices, group, label)
    if dry_run:
        names = [device.id for device in chosen]
        return Outcome({"is_dry_run": True, "devices": names}, f"would roll back {', '.join(names)}")
    held = fleet_lock(site.books.records.folder, site.owner, "fleet rollback")
    with held, fleet_progress(is_quiet=context.obj.is_quiet) as listener:
        results = asyncio.run(roll_back(site.work(listener), site.books, chosen, site.fleet.rollout.concurrency))
    document = {"devices": [result_document(result) for result in results]}
    return Outcome(document, results_text(results), exit_code_of(results))
