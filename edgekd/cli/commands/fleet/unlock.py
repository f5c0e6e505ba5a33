"""`edgekd fleet unlock`: locks of operators who are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.fleet_live import fleet_progress
from edgekd.cli.fleet_site import Devices, FleetFile, Owner, open_site
from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.ship.fleet import DeviceResult


def unlock(
    context: typer.Context,
    devices: Devices = None,
    *,
    fleet: FleetFile = ".",  # type: ignore[assignment]
    repository: Annotated[bool, typer.Option("--repository", help="The lock of the fleet itself.")] = False,
    owner: Owner = None,
) -> Outcome:
    """Take locks away from an operator whose command is gone for good; ask them first.

    Examples:
      edgekd fleet unlock --repository
      edgekd fleet unlock orin-3
    """
    import asyncio

    from edgekd.cli.fleet_text import result_document, results_text
    from edgekd.ship.fleet import break_lock, exit_code_of
    from edgekd.ship.fleet.unlocking import free

    if not devices and not repository:
        raise ConfigError("say which devices, or --repository")
    site = open_site(fleet, owner)
    holder = break_lock(site.books.records.folder) if repository else None
    lines = [f"the fleet was held by {holder}" if holder else "the fleet was free"] if repository else []
    results: tuple[DeviceResult, ...] = ()
    if devices:
        chosen = site.chosen(devices, None, None)
        with fleet_progress(is_quiet=context.obj.is_quiet) as listener:
            results = asyncio.run(free(site.work(listener), site.books, chosen, site.fleet.rollout.concurrency))
        lines.append(results_text(results))
    document = {"held_by": str(holder) if holder else None, "devices": [result_document(one) for one in results]}
    return Outcome(document, "\n".join(lines), exit_code_of(results))
