"""Release a bundle and have a group of devices want it; bring either back; leave a trace of where it came from."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import edgekd_agent
from edgekd_agent import MANIFEST_NAME, Artifact, Manifest, manifest_bytes, parse_manifest
from edgekd_agent.trust import (
    DesiredState,
    TrustError,
    blob_target,
    bundle_target,
    desired_bytes,
    desired_target,
    parse_desired,
)
from edgekd_agent.trust.names import staged_name
from tuf.api.metadata import TargetFile, Targets

from edgekd.core import atomic
from edgekd.core.errors import BundleError, ConfigError, StorageError, unknown_name
from edgekd.ship.bundle import verify
from edgekd.ship.trust import store
from edgekd.ship.trust.keys import Passphrase, passphrase_from_environment, require_apart
from edgekd.ship.trust.roles import Roles, utc_now
from edgekd.ship.trust.signing import Signing, reissued, require_later
from edgekd.ship.trust.statement import statement_bytes, statement_target


@dataclass(frozen=True)
class Published:
    """What a group wants now.

    Attributes:
        group: The group.
        name: Name of the model line.
        version: Its release.
        bundle_sha256: Digest of its `bundle.json`.
        selectors: Devices of the group that it is for.
        is_changed: Whether anything had to be signed; publishing twice changes nothing.
        signed_until: When the first of the signatures behind it expires.
    """

    group: str
    name: str
    version: int
    bundle_sha256: str
    selectors: tuple[Mapping[str, str], ...]
    is_changed: bool
    signed_until: datetime


@dataclass(frozen=True)
class ReleaseFiles:
    """A bundle about to be released.

    Attributes:
        manifest: What it says.
        content: The exact bytes of that.
        folder: Where its files lie.
    """

    manifest: Manifest
    content: bytes
    folder: Path

    @property
    def sha256(self) -> str:
        """Digest of its `bundle.json`."""
        return hashlib.sha256(self.content).hexdigest()


def publish(
    repo: Path,
    keys: Path,
    bundle: Path,
    group: str,
    *,
    version: int | None = None,
    select: Mapping[str, str] | None = None,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> Published:
    """Release a bundle and have a group want it.

    Args:
        repo: The repository.
        keys: Folder of private keys: of targets, of the group, and the online one.
        bundle: Folder of the bundle.
        group: Group of devices.
        version: Release number, where it is to be another than the bundle says.
        select: Further facts that a device must have (`{"device_id": "robot-7"}`).
        passphrase: Asked when a key is encrypted.
        now: Time of signing; the present by default.

    Returns:
        What the group wants now.

    Raises:
        BundleError: The bundle is not whole, or the repository was changed by another hand.
        ConfigError: There is no such group, or this release number belongs to another bundle.
        PreconditionError: A key is missing.
        StorageError: The file system refused.
        RunLocked: Another operator is at work.
    """
    require_apart(repo, keys)
    release = read_release(bundle, version)
    with store.locked(repo):
        store.require_anchor(repo, keys)
        roles = store.load(repo)
        require_group(roles, group)
        require_free_version(repo, roles, release)
        _keep_blobs(repo, release)
        contents = _list_release(roles.targets.signed, release)
        desired = desired_state(release.manifest, release.sha256, len(release.content), group, select)
        signing = _signing(repo, keys, passphrase, now)
        changed = ["targets"] if contents else []
        return _wanted(repo, roles, desired, signing, contents=contents, changed=changed)


def want(
    repo: Path,
    keys: Path,
    group: str,
    bundle_sha256: str,
    *,
    select: Mapping[str, str] | None = None,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> Published:
    """Have a group want a bundle that was released before, an older one too.

    Args:
        repo: The repository.
        keys: Folder of private keys: of the group, and the online one.
        group: Group of devices.
        bundle_sha256: Digest of the released `bundle.json`.
        select: Further facts that a device must have.
        passphrase: Asked when a key is encrypted.
        now: Time of signing; the present by default.

    Returns:
        What the group wants now.

    Raises:
        ConfigError: There is no such group, or no such release.
    """
    require_apart(repo, keys)
    with store.locked(repo):
        store.require_anchor(repo, keys)
        roles = store.load(repo)
        require_group(roles, group)
        if bundle_target(bundle_sha256) not in roles.targets.signed.targets:
            raise ConfigError(f"no bundle {bundle_sha256} was released from {repo}")
        content = released_manifest_bytes(repo, bundle_sha256)
        desired = desired_state(parse_manifest(content), bundle_sha256, len(content), group, select)
        signing = _signing(repo, keys, passphrase, now)
        return _wanted(repo, roles, desired, signing, contents={}, changed=[])


def desired_of(repo: Path, roles: Roles, group: str) -> DesiredState | None:
    """Return what a group wants; None before anything was published for it."""
    info = roles.groups[group].signed.targets.get(desired_target(group))
    if info is None:
        return None
    try:
        return parse_desired(_target_bytes(repo, info))
    except TrustError as error:
        raise BundleError(f"the desired state of {group}: {error}") from error


def released_manifest_bytes(repo: Path, bundle_sha256: str) -> bytes:
    """Return the `bundle.json` of a release, checked against its digest; raises `BundleError`, `StorageError`."""
    path = repo / "targets" / staged_name(bundle_target(bundle_sha256), bundle_sha256)
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != bundle_sha256:
        raise BundleError(f"{path} is not what was released")
    return content


def read_release(bundle: Path, version: int | None) -> ReleaseFiles:
    """Check a bundle and give it its release number; raises `BundleError`, `ConfigError`."""
    verify(bundle)
    manifest = edgekd_agent.read_manifest(bundle / MANIFEST_NAME)
    if version is not None:
        if version < 1:
            raise ConfigError(f"version {version} is below 1")
        manifest = dataclasses.replace(manifest, version=version)
    return ReleaseFiles(manifest, manifest_bytes(manifest), bundle)


def _signing(repo: Path, keys: Path, passphrase: Passphrase, now: datetime | None) -> Signing:
    return Signing(keys, passphrase, store.read_lifetimes(repo), now or utc_now())


def require_group(roles: Roles, group: str) -> None:
    """Raise `ConfigError` unless there is such a group."""
    if group not in roles.groups:
        raise unknown_name("group", group, roles.groups)


def require_free_version(repo: Path, roles: Roles, release: ReleaseFiles) -> None:
    """Raise `ConfigError` when the release number belongs to a bundle with other content."""
    for path, info in roles.targets.signed.targets.items():
        sha256 = info.hashes["sha256"]
        if path != bundle_target(sha256) or sha256 == release.sha256:
            continue
        other = parse_manifest(released_manifest_bytes(repo, sha256))
        if (other.name, other.version) == (release.manifest.name, release.manifest.version):
            raise ConfigError(
                f"{other.name} version {other.version} was released with other content ({sha256[:16]}): "
                "give this one the next --version"
            )


def _keep_blobs(repo: Path, release: ReleaseFiles) -> None:
    """Copy the bundle's files into the repository under their digests; equal ones are there already."""
    for artifact in release.manifest.artifacts:
        target = repo / "blobs" / artifact.sha256
        if not _is_whole(target, artifact):
            with atomic.replacing(target) as temporary:
                shutil.copyfile(release.folder / artifact.path, temporary)
                if not _is_whole(temporary, artifact):
                    raise BundleError(f"{release.folder / artifact.path} changed while it was copied")


def _is_whole(path: Path, artifact: Artifact) -> bool:
    if not path.is_file() or path.stat().st_size != artifact.size_bytes:
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == artifact.sha256


def _list_release(targets: Targets, release: ReleaseFiles) -> dict[str, bytes]:
    """Make the bundle, its files and its statement targets; return the new small ones by their path on disk."""
    if bundle_target(release.sha256) in targets.targets:
        return {}
    statement = statement_bytes(release.manifest, release.sha256)
    for artifact in release.manifest.artifacts:
        path = blob_target(artifact.sha256)
        targets.targets[path] = TargetFile(artifact.size_bytes, {"sha256": artifact.sha256}, path)
    return {
        _add_target(targets, bundle_target(release.sha256), release.content): release.content,
        _add_target(targets, statement_target(release.sha256), statement): statement,
    }


def _add_target(targets: Targets, path: str, content: bytes) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    targets.targets[path] = TargetFile(len(content), {"sha256": sha256}, path)
    return f"targets/{staged_name(path, sha256)}"


def desired_state(
    manifest: Manifest, bundle_sha256: str, size_bytes: int, group: str, select: Mapping[str, str] | None
) -> DesiredState:
    """Return what a group will want: the devices that the bundle is for, with further facts; raises `ConfigError`."""
    devices = sorted({target.device for target in manifest.targets})
    selectors = tuple({"device": device, **(select or {})} for device in devices)
    desired = DesiredState(1, group, manifest.name, manifest.version, bundle_sha256, size_bytes, selectors)
    try:
        return parse_desired(desired_bytes(desired))
    except TrustError as error:
        raise ConfigError(str(error)) from error


def _wanted(
    repo: Path,
    roles: Roles,
    desired: DesiredState,
    signing: Signing,
    *,
    contents: Mapping[str, bytes],
    changed: Collection[str],
) -> Published:
    group = desired.group
    content = desired_bytes(desired)
    sha256 = hashlib.sha256(content).hexdigest()
    before = roles.groups[group].signed.targets.get(desired_target(group))
    if before is None or before.hashes["sha256"] != sha256:
        path = _add_target(roles.groups[group].signed, desired_target(group), content)
        contents, changed = {**contents, path: content}, {*changed, group}
    if changed:
        require_later(roles, signing.now)
        store.write(repo, reissued(roles, changed, signing), contents)
    return Published(
        group=group,
        name=desired.name,
        version=desired.version,
        bundle_sha256=desired.bundle_sha256,
        selectors=desired.selectors,
        is_changed=bool(changed),
        signed_until=min(
            metadata.signed.expires for role, metadata in roles if role not in roles.groups or role == group
        ),
    )


def _target_bytes(repo: Path, info: TargetFile) -> bytes:
    path = repo / "targets" / staged_name(info.path, info.hashes["sha256"])
    content = _read(path)
    if len(content) != info.length or hashlib.sha256(content).hexdigest() != info.hashes["sha256"]:
        raise BundleError(f"{path} is not what was signed")
    return content


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
