"""The roles of a repository, how long their signatures last, and which of their keys are whose.

Root names the keys of the four top-level roles and stays offline; targets says which bundles were released and names
the keys of the groups; a group says which of the released bundles its devices should run; snapshot and timestamp, one
key on the operator's machine, say which of all these files are the current ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edgekd.core.errors import ConfigError

TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")
ONLINE = "online"
"""Label of the key that snapshot and timestamp share."""


@dataclass(frozen=True)
class Lifetimes:
    """Days until signatures expire, by role.

    Attributes:
        root_days: Of the root, signed by people who meet for it.
        targets_days: Of the list of released bundles.
        group_days: Of a group's desired state.
        snapshot_days: Of the list of current files.
        timestamp_days: Of the newest statement: how long a device that hears nothing may still install.
    """

    root_days: int = 365
    targets_days: int = 90
    group_days: int = 90
    snapshot_days: int = 14
    timestamp_days: int = 14

    def require_positive(self) -> None:
        """Raise `ConfigError` unless every lifetime is at least a day."""
        for field in fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} is {getattr(self, field.name)}; a signature lasts at least 1 day")

    def of(self, role: str) -> timedelta:
        """Return the lifetime of a role's signatures; every name that is no top-level role is a group."""
        return timedelta(days=getattr(self, f"{role if role in TOP_LEVEL else 'group'}_days"))


@dataclass(frozen=True)
class Roles:
    """The current metadata of a repository, verified.

    Attributes:
        root: Newest root.
        targets: Released bundles, and the keys of the groups.
        groups: Desired states by group.
        snapshot: Current versions.
        timestamp: Current snapshot.
    """

    root: Metadata[Root]
    targets: Metadata[Targets]
    groups: Mapping[str, Metadata[Targets]]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    def __iter__(self) -> Iterator[tuple[str, Metadata[Any]]]:
        """Yield every role with its metadata, from the one that vouches for others to the one that changes most."""
        yield "root", self.root
        yield "targets", self.targets
        yield from self.groups.items()
        yield "snapshot", self.snapshot
        yield "timestamp", self.timestamp

    def delegator(self, role: str) -> Root | Targets:
        """Return who names the keys of a role."""
        return self.root.signed if role in TOP_LEVEL else self.targets.signed

    def keys_of(self, role: str) -> list[Key]:
        """Return the keys that may sign for a role."""
        delegator = self.delegator(role)
        return [delegator.get_key(keyid) for keyid in delegator.get_delegated_role(role).keyids]

    def roles_of(self, keyid: str) -> list[str]:
        """Return the roles a key may sign for."""
        return [role for role, _ in self if keyid in self.delegator(role).get_delegated_role(role).keyids]


def utc_now() -> datetime:
    """Return the time in whole seconds, as metadata carry it."""
    return datetime.now(timezone.utc).replace(microsecond=0)
