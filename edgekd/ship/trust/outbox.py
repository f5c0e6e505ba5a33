"""What one device of a group needs to be brought, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd_agent import parse_manifest
from edgekd_agent.trust import DESIRED_NAME, bundle_target, desired_target
from edgekd_agent.trust.names import staged_name

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.ship.trust import store
from edgekd.ship.trust.publishing import desired_of, released_manifest_bytes


@dataclass(frozen=True)
class Outbox:
    """Files for one device.

    Attributes:
        metadata: Small files by their name in the device's `staging/metadata`; bring all of them.
        blobs: Files of the bundle by SHA-256; bring those the device misses.
    """

    metadata: Mapping[str, Path]
    blobs: Mapping[str, Path]


def outbox(repo: Path, group: str, *, root_version: int) -> Outbox:
    """Collect what a device of a group needs.

    Args:
        repo: The repository.
        group: Group of the device.
        root_version: Newest root that the device trusts.

    Returns:
        The files.

    Raises:
        ConfigError: There is no such group, nothing was published for it, or the device trusts a newer root.
        SignatureError: The repository was changed by another hand.
        StorageError: It cannot be read.
    """
    with store.locked(repo):
        roles = store.load(repo)
        if group not in roles.groups:
            raise unknown_name("group", group, roles.groups)
        desired = desired_of(repo, roles, group)
        if desired is None:
            raise ConfigError(f"nothing is published for {group} yet: edgekd ship publish BUNDLE --group {group}")
        newest = roles.root.signed.version
        if not 1 <= root_version <= newest:
            raise ConfigError(f"the device trusts root {root_version}, {repo} has 1..{newest}: not its repository")
        names = [f"{version}.root.json" for version in range(root_version + 1, newest + 1)]
        names += ["timestamp.json", f"{roles.snapshot.signed.version}.snapshot.json"]
        names += [f"{roles.targets.signed.version}.targets.json", f"{roles.groups[group].signed.version}.{group}.json"]
        wanted = roles.groups[group].signed.targets[desired_target(group)].hashes["sha256"]
        small = [
            staged_name(DESIRED_NAME, wanted),
            staged_name(bundle_target(desired.bundle_sha256), desired.bundle_sha256),
        ]
        manifest = parse_manifest(released_manifest_bytes(repo, desired.bundle_sha256))
    return Outbox(
        metadata={name: repo / "metadata" / name for name in names} | {name: repo / "targets" / name for name in small},
        blobs={artifact.sha256: repo / "blobs" / artifact.sha256 for artifact in manifest.artifacts},
    )
