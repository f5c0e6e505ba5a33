"""What every `edgekd fleet` command opens first: the inventory, its repository, its books, the way to its devices."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.core.errors import missing_package

if TYPE_CHECKING:
    from edgekd.core.events import Listener
    from edgekd.ship.fleet import Books, Device, Fleet, Source, Work
    from edgekd.ship.transport import SshTransport

FleetFile = Annotated[Path, typer.Option("--fleet", "-f", help="fleet.yaml, or its folder.")]
Devices = Annotated[list[str] | None, typer.Argument(help="Devices by name; all by default.", show_default=False)]
InGroup = Annotated[str | None, typer.Option("--group", help="Only devices of this group.")]
Labels = Annotated[list[str] | None, typer.Option("--label", help="Only devices with this label, as key=value.")]
Owner = Annotated[str | None, typer.Option("--owner", help="Your name on locks and in the audit log; user@host.")]


@dataclass(frozen=True)
class FleetSite:
    """A fleet, opened.

    Attributes:
        fleet: The inventory.
        folder: Folder of `fleet.yaml`.
        owner: The operator.
        books: Records and audit log.
        source: The signed repository.
    """

    fleet: Fleet
    folder: Path
    owner: str
    books: Books
    source: Source

    @property
    def transport(self) -> SshTransport:
        """The way to its devices."""
        from edgekd.ship.fleet.inventory import keys_of, place_of
        from edgekd.ship.transport import SshTransport
        from edgekd.targets.ssh_line import Pauses

        pauses = Pauses(give_up_s=self.fleet.rollout.timeouts.silent_s, jitter=0.3)
        return SshTransport(keys_of(self.fleet, self.folder), place_of(self.fleet), pauses)

    def work(self, listener: Listener, *, group: str | None = None, is_retried: bool = False) -> Work:
        """Return what devices of a command share."""
        from edgekd.ship.fleet import Work

        rollout = self.fleet.rollout if group is None else self.fleet.rollout_of(group)
        return Work(self.transport, self.source, self.owner, rollout.timeouts, listener, is_retried)

    def chosen(self, devices: list[str] | None, group: str | None, labels: list[str] | None) -> tuple[Device, ...]:
        """Choose devices; see `inventory.chosen`."""
        from edgekd.ship.fleet.inventory import chosen

        return chosen(self.fleet, devices or [], group, labels or [])


def open_site(path: Path, owner: str | None) -> FleetSite:
    """Open a fleet.

    Args:
        path: `fleet.yaml`, or its folder.
        owner: The operator; the user of this machine by default.

    Raises:
        ConfigError: The inventory is wrong, or there is no repository.
        PreconditionError: A package that fleets need is not installed.
    """
    _require_packages()
    from edgekd.ship.fleet import AuditLog, Books, Records, operator_name, read_fleet
    from edgekd.ship.fleet.inventory import repository_of
    from edgekd.ship.fleet.repository import RepositorySource, require_repository

    fleet = read_fleet(path)
    folder = path if path.is_dir() else path.parent
    repository = repository_of(fleet, folder)
    require_repository(repository)
    records = Records(repository)
    name = owner or operator_name()
    return FleetSite(fleet, folder, name, Books(records, AuditLog(records.folder)), RepositorySource(repository))


def _require_packages() -> None:
    for package in ("asyncssh", "tuf"):
        if importlib.util.find_spec(package) is None:
            raise missing_package(package, "ship", "bringing releases to devices")
