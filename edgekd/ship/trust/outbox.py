"""What one device of a group needs to be brought, and under which names."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd_agent import parse_manifest
from edgekd_agent.trust import DESIRED_NAME, bundle_target, desired_target
from edgekd_agent.trust.names import staged_name

from edgekd.core import atomic
from edgekd.core.errors import ConfigError, unknown_name
from edgekd.ship.placement import replacing_folder
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
    with store.reading(repo):
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


def export(repo: Path, group: str, folder: Path, *, root_version: int = 1) -> Outbox:
    """Write what a device of a group needs into a folder that takes the place of its `staging`, to be carried by hand.

    Args:
        repo: The repository.
        group: Group of the device.
        folder: The folder to make; replaced as a whole when it is there.
        root_version: Newest root that the device trusts; the first one, which every device has, by default.

    Returns:
        The files that were written, where they lie now.

    Raises:
        ConfigError: As `outbox`.
        SignatureError: The repository was changed by another hand.
        StorageError: The file system refused.
    """
    box = outbox(repo, group, root_version=root_version)
    names = {f"metadata/{name}": path for name, path in box.metadata.items()}
    names |= {f"blobs/{sha256}.part": path for sha256, path in box.blobs.items()}
    with replacing_folder(folder.absolute()) as staging:
        for name, path in names.items():
            with atomic.replacing(staging / name) as temporary:
                shutil.copyfile(path, temporary)
    return Outbox(
        metadata={name: folder / "metadata" / name for name in box.metadata},
        blobs={sha256: folder / "blobs" / f"{sha256}.part" for sha256 in box.blobs},
    )
