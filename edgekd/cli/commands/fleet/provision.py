"""`edgekd fleet provision`: devices made part of the fleet, or given a newer agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.fleet_live import fleet_progress
from edgekd.cli.fleet_site import Devices, FleetFile, InGroup, Labels, Owner, open_site
from edgekd.cli.outcome import Outcome
from edgekd.core.errors import ConfigError

if TYPE_CHECKING:
    from edgekd.cli.fleet_site import FleetSite
    from edgekd.targets.ssh_connection import SshKeys


def provision(
    context: typer.Context,
    devices: Devices = None,
    *,
    fleet: FleetFile = ".",  # type: ignore[assignment]
    group: InGroup = None,
    label: Labels = None,
    login: Annotated[str | None, typer.Option(help="Login that may become root, in place of fleet.yaml's.")] = None,
    authorized_key: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Public key for later commands; that of the fleet's identity by default."),
    ] = None,
    owner: Owner = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be left where, touch nothing.")] = False,
) -> Outcome:
    """Install the agent on devices, or update it; tell them who they are and whom they trust.

    Sends deploy/device/provision.sh with what it needs, and runs it as root (sudo without a password, or a root login).
    A device's name, group and root of trust are set once and never changed by this.

    Examples:
      edgekd fleet provision --login nvidia
      edgekd fleet provision orin-3 --login root --authorized-key ~/.ssh/id_ed25519.pub
    """
    import asyncio

    from edgekd.cli.fleet_text import result_document, results_text
    from edgekd.ship.fleet import exit_code_of, fleet_lock
    from edgekd.ship.fleet.device_files import device_files
    from edgekd.ship.fleet.inventory import keys_of
    from edgekd.ship.fleet.provision import Login
    from edgekd.ship.fleet.provision import provision as provide
    from edgekd.targets.ssh_line import Pauses

    site = open_site(fleet, owner)
    chosen, keys = site.chosen(devices, group, label), keys_of(site.fleet, site.folder)
    key, root = _public_key(keys, authorized_key), _first_root(site)
    prepared = {device.id: device_files(site.fleet, device, root, key) for device in chosen}
    if dry_run:
        listed = {device: sorted(files) for device, files in prepared.items()}
        text = "\n".join(f"{device}: would send {', '.join(names)}" for device, names in listed.items())
        return Outcome({"is_dry_run": True, "devices": listed}, text)
    pauses = Pauses(give_up_s=site.fleet.rollout.timeouts.silent_s, jitter=0.3)
    held = fleet_lock(site.books.records.folder, site.owner, "fleet provision")
    with held, fleet_progress(is_quiet=context.obj.is_quiet) as listener:
        work = provide(
            site.work(listener),
            site.books,
            chosen,
            Login(login, keys, pauses),
            files=lambda device: prepared[device.id],
            concurrency=site.fleet.rollout.concurrency,
        )
        results = asyncio.run(work)
    document = {"devices": [result_document(result) for result in results]}
    return Outcome(document, results_text(results), exit_code_of(results))


def _first_root(site: FleetSite) -> Path:
    from edgekd.ship.fleet.inventory import repository_of

    return repository_of(site.fleet, site.folder) / "metadata" / "1.root.json"


def _public_key(keys: SshKeys, named: Path | None) -> Path | None:
    """Return the key to allow: the one that was named, that of the fleet's identity, or none."""
    if named is not None:
        if "PRIVATE KEY" in named.read_text(encoding="utf-8", errors="replace"):
            raise ConfigError(f"{named} is a private key; name the public one, which ends in .pub")
        return named
    if keys.identity is None:
        return None
    public = keys.identity.with_name(f"{keys.identity.name}.pub")
    return public if public.is_file() else None
