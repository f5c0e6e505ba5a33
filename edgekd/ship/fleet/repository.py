"""The signed repository as a fleet sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgekd.core.digest import sha256_of_file
from edgekd.core.errors import BundleError, ConfigError
from edgekd.ship import trust
from edgekd.ship.fleet.source import Parcel
from edgekd.ship.transport.answers import Model


@dataclass
class RepositorySource:
    """Releases of a repository of `edgekd.ship.trust`; see `Source`.

    Attributes:
        repository: Its folder.
    """

    repository: Path
    _desired: dict[str, Model] | None = None
    _parcels: dict[tuple[str, int], Parcel] = field(default_factory=dict)
    _checked: set[Path] = field(default_factory=set)

    def desired(self, group: str) -> Model | None:
        """Return what a group is to run, as it was when this command first asked."""
        if self._desired is None:
            facts = trust.show(self.repository)
            self._desired = {role.role: Model(*role.wants) for role in facts.roles if role.wants}
        return self._desired.get(group)

    def parcel(self, group: str, *, root_version: int) -> Parcel:
        """Return what a device needs; blobs are compared with their names once, before any is sent."""
        key = (group, root_version)
        if key not in self._parcels:
            box = trust.outbox(self.repository, group, root_version=root_version)
            for sha256, path in box.blobs.items():
                self._require_whole(sha256, path)
            self._parcels[key] = Parcel(box.metadata, box.blobs)
        return self._parcels[key]

    def _require_whole(self, sha256: str, path: Path) -> None:
        if path in self._checked:
            return
        try:
            is_whole = sha256_of_file(path) == sha256
        except OSError as error:
            raise BundleError(f"{path}: {error.strerror}; publish the bundle again") from error
        if not is_whole:
            raise BundleError(f"{path} is not what its name says; publish the bundle again")
        self._checked.add(path)


def require_repository(repository: Path) -> None:
    """Refuse a folder that is no repository; raises `ConfigError`."""
    if not (repository / "metadata").is_dir():
        raise ConfigError(f"{repository} is no repository of releases: edgekd ship keys init makes one")
