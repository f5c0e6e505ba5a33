"""`edgekd fleet status`: desired, reported, last seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.fleet_live import fleet_progress
from edgekd.cli.fleet_site import Devices, FleetFile, InGroup, Labels, Owner, open_site
from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from edgekd.ship.fleet import DeviceResult


def status(
    context: typer.Context,
    devices: Devices = None,
    *,
    fleet: FleetFile = ".",  # type: ignore[assignment]
    group: InGroup = None,
    label: Labels = None,
    converge: Annotated[
        bool, typer.Option("--converge", help="Also bring queued devices, which were offline, to the release.")
    ] = False,
    contact: Annotated[bool, typer.Option(help="Ask the devices; else say what is known.")] = True,
    owner: Owner = None,
) -> Outcome:
    """Say what each device should run, what it says it runs, and when it last said anything.

    With --converge the exit code is as for deploy, else 0.

    Examples:
      edgekd fleet status
      edgekd fleet status --group line-a --converge
      edgekd fleet status --no-contact --json
    """
    import asyncio

    from edgekd.cli.fleet_text import result_document, results_text, status_document, statuses_text
    from edgekd.ship.fleet import converge as bring_queued
    from edgekd.ship.fleet import exit_code_of, fleet_lock, holder_of, statuses

    if converge and not contact:
        raise ConfigError("--converge needs to ask the devices; leave --no-contact out")
    site = open_site(fleet, owner)
    chosen, concurrency = site.chosen(devices, group, label), site.fleet.rollout.concurrency
    folder = site.books.records.folder
    results: tuple[DeviceResult, ...] = ()
    code = ExitCode.DONE
    with fleet_progress(is_quiet=context.obj.is_quiet) as listener:
        work = site.work(listener)
        if converge:
            with fleet_lock(folder, site.owner, "fleet status --converge"):
                results = asyncio.run(bring_queued(work, site.books, chosen, concurrency))
            code = exit_code_of(results)
        found = asyncio.run(statuses(work, site.books.records, chosen, concurrency, is_asked=contact))
    holder = holder_of(folder)
    document = {
        "devices": [status_document(one) for one in found],
        "converged": [result_document(result) for result in results],
        "held_by": str(holder) if holder else None,
    }
    parts = [statuses_text(found)]
    parts += [f"converging:\n{results_text(results)}"] if converge else []
    parts += [f"the fleet is held by {holder}"] if holder else []
    return Outcome(document, "\n\n".join(parts), code)
