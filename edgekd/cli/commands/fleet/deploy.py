"""`edgekd fleet deploy`: the release of a group, in waves."""

from __future__ import annotations

from typing import Annotated

import typer

from edgekd.cli.fleet_live import fleet_progress
from edgekd.cli.fleet_site import FleetFile, FleetSite, Owner, open_site
from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ConfigError


def deploy(
    context: typer.Context,
    groups: Annotated[
        list[str] | None, typer.Argument(help="Groups; may be left out where there is one.", show_default=False)
    ] = None,
    *,
    fleet: FleetFile = ".",  # type: ignore[assignment]
    owner: Owner = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try a release again on devices where it failed before.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say the waves, touch nothing.")] = False,
) -> Outcome:
    """Bring what was published for a group to its devices, in waves.

    Each device verifies, builds, checks, switches and goes back on its own. A roll-out that was interrupted, or halted,
    goes on with the same command; devices that run the release are left alone. Offline devices are queued.

    Exit codes: 0 every device runs it; 4 the others were offline; 3, 4, 5 or 6 where no device got it and all failed
    alike; 1 else; 130 interrupted.

    Examples:
      edgekd fleet deploy line-a --dry-run
      edgekd fleet deploy line-a
    """
    import asyncio

    from edgekd.cli.fleet_text import deployment_document, deployment_text
    from edgekd.ship.fleet import deploy as roll_out
    from edgekd.ship.fleet import exit_code_of, fleet_lock

    site = open_site(fleet, owner)
    asked = _groups(site, groups)
    if dry_run:
        return _plan(site, asked)
    deployments = []
    held = fleet_lock(site.books.records.folder, site.owner, f"fleet deploy {' '.join(asked)}")
    with held, fleet_progress(is_quiet=context.obj.is_quiet) as listener:
        for group in asked:
            rollout, devices = site.fleet.rollout_of(group), site.fleet.in_group(group)
            work = site.work(listener, group=group, is_retried=retry_failed)
            deployments.append(asyncio.run(roll_out(work, site.books, group, devices, rollout)))
            if deployments[-1].halted:
                break
    results = [result for deployment in deployments for result in deployment.results]
    text = "\n\n".join(map(deployment_text, deployments))
    if left := asked[len(deployments) :]:
        text += f"\n\nnot begun, since the one before was halted: {', '.join(left)}"
    document = {"deployments": [deployment_document(one) for one in deployments], "not_begun": left}
    return Outcome(document, text, exit_code_of(results))


def _groups(site: FleetSite, groups: list[str] | None) -> list[str]:
    known = list(site.fleet.groups)
    if not groups and len(known) > 1:
        raise ConfigError(f"say which groups: {', '.join(known)}")
    asked = list(dict.fromkeys(groups or known))
    for group in asked:
        site.fleet.rollout_of(group)
        if not site.fleet.in_group(group):
            raise ConfigError(f"the group {group!r} has no devices")
    return asked


def _plan(site: FleetSite, groups: list[str]) -> Outcome:
    from edgekd.cli.fleet_text import waves_document, waves_text
    from edgekd.core.events import silent
    from edgekd.ship.fleet import planned_waves
    from edgekd.ship.fleet.deploy import desired_of

    documents, texts = [], []
    for group in groups:
        desired = desired_of(site.work(silent), group)
        waves = planned_waves(site.fleet.rollout_of(group).waves, site.fleet.in_group(group))
        documents.append(waves_document(group, desired, waves))
        texts.append(waves_text(group, desired, waves))
    return Outcome({"is_dry_run": True, "deployments": documents}, "\n\n".join(texts))
