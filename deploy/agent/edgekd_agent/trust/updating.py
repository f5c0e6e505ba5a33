"""Runs TUF's client workflow over a folder, then resolves the group's desired state to a checked manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from edgekd_agent.bundle import Manifest, ManifestError
from edgekd_agent.reader import parse_manifest
from edgekd_agent.trust import keeping
from edgekd_agent.trust.clock import Reading, SeenTime, keep_seen, read_seen, reading, utc_from
from edgekd_agent.trust.desired import MAX_DESIRED_BYTES, DesiredState, desired_target, parse_desired
from edgekd_agent.trust.device import Device
from edgekd_agent.trust.errors import TrustError, TrustProblem
from edgekd_agent.trust.names import SIGNED_AT, blob_target, bundle_target, staged_name
from edgekd_agent.trust.release import Release
from edgekd_agent.trust.staged import BASE_URL, StagedFiles
from edgekd_agent.trust.tuf_client import Metadata, Root, Updater, UpdaterConfig, exceptions

_CONFIG = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=8,
    root_max_length=64 << 10,
    timestamp_max_length=16 << 10,
    snapshot_max_length=1 << 20,
    targets_max_length=5 << 20,
)
# Errors that hostile but well-formed JSON can provoke inside tuf, besides its own.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError)


def verified_release(trust: Path, metadata: Path, device: Device, *, now: datetime, clock_floor: datetime) -> Release:
    """Do what `edgekd_agent.trust.desired_release` promises."""
    if now.tzinfo is None or clock_floor.tzinfo is None:
        raise ValueError("now and clock_floor need a time zone")
    staged, seen = StagedFiles(metadata), read_seen(trust)
    with keeping.scratch_copy(trust) as scratch, _refusals_named():
        updater = _opened(trust, scratch, staged)
        _advance_root(trust, scratch, updater)
        clock = reading(now, clock_floor, seen, _timestamp_keyids(updater))
        _refresh(updater, clock)
        release = _resolved(updater, staged, device)
        signed = _signed_time(updater)
        _keep_metadata(trust, scratch, device.group)
        keep_seen(trust, _later(seen, signed))
    return release


def newest_root_version(trust: Path) -> int:
    """Do what `edgekd_agent.trust.trusted_root_version` promises."""
    with _refusals_named():
        trusted = _root_from(_bootstrap(trust))
        while (content := keeping.read_if_there(keeping.root_file(trust, trusted.version + 1))) is not None:
            try:
                trusted = _root_from(content, trusted)
            except (exceptions.RepositoryError, *_UNREADABLE):
                break  # damaged on disk: the host brings it again
        return trusted.version


def _root_from(content: bytes, previous: Root | None = None) -> Root:
    metadata = Metadata[Root].from_bytes(content)
    if previous is not None and metadata.signed.version != previous.version + 1:
        raise exceptions.BadVersionNumberError(f"root {metadata.signed.version} does not follow {previous.version}")
    for root in filter(None, (previous, metadata.signed)):
        root.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
    return metadata.signed


def _opened(trust: Path, scratch: Path, staged: StagedFiles) -> Updater:
    return Updater(str(scratch), BASE_URL, fetcher=staged, config=_CONFIG, bootstrap=_bootstrap(trust))


def _bootstrap(trust: Path) -> bytes:
    content = keeping.read_if_there(trust / keeping.ROOT_NAME)
    if content is None:
        raise TrustError("missing", f"{trust / keeping.ROOT_NAME} cannot be read: provision this device")
    return content


def _advance_root(trust: Path, scratch: Path, updater: Updater) -> None:
    """Follow the chain of roots, and keep each good one even when a later one is refused."""
    first = updater._trusted_set.root.version
    try:
        updater._load_root()
    finally:
        for version in range(first + 1, updater._trusted_set.root.version + 1):
            content = keeping.read_if_there(scratch / keeping.HISTORY / f"{version}.root.json")
            if content is not None:
                keeping.keep(keeping.root_file(trust, version), content)


def _timestamp_keyids(updater: Updater) -> list[str]:
    return list(updater._trusted_set.root.roles["timestamp"].keyids)


def _refresh(updater: Updater, clock: Reading) -> None:
    """Verify the top-level metadata at the time of `clock`; tuf itself would ask the system's clock."""
    updater._trusted_set.reference_time = clock.now
    try:
        updater.refresh()
    except exceptions.ExpiredMetadataError as error:
        if clock.is_unlikely:
            message = f"this device's clock says {clock.own:%Y-%m-%d}, years after anything it was told: set its clock"
            raise TrustError("clock", message) from error
        raise


def _resolved(updater: Updater, staged: StagedFiles, device: Device) -> Release:
    desired = _desired(updater, staged, device)
    content = _target(updater, staged, bundle_target(desired.bundle_sha256), desired.bundle_size_bytes)
    manifest = _manifest(content, desired)
    _require_signed_blobs(updater, manifest)
    _require_meant_for(device, manifest)
    return Release(
        group=device.group,
        name=manifest.name,
        version=manifest.version,
        bundle_sha256=desired.bundle_sha256,
        bundle_bytes=content,
        manifest=manifest,
        signed_until=_signed_until(updater, device.group),
    )


def _desired(updater: Updater, staged: StagedFiles, device: Device) -> DesiredState:
    delegations = updater._trusted_set.targets.delegations
    groups = sorted(delegations.roles or {}) if delegations else []
    if device.group not in groups:
        raise TrustError(
            "wrong-group", f"this device is of group {device.group}; signed are {', '.join(groups) or '-'}"
        )
    desired = parse_desired(_target(updater, staged, desired_target(device.group), MAX_DESIRED_BYTES))
    if desired.group != device.group:
        raise TrustError("wrong-group", f"the desired state is of group {desired.group}, this device of {device.group}")
    if not desired.is_for(device.facts):
        wanted = " or ".join(_words(selector) for selector in desired.selectors)
        raise TrustError("wrong-device", f"the release is for {wanted}; this device is {_words(device.facts)}")
    return desired


def _words(facts: object) -> str:
    return ", ".join(f"{key} {value}" for key, value in sorted(dict(facts).items()))  # type: ignore[call-overload]


def _target(updater: Updater, staged: StagedFiles, path: str, max_bytes: int) -> bytes:
    """Return a small target, its length known and checked before its bytes are."""
    info = updater.get_targetinfo(path)
    if info is None:
        raise TrustError("missing", f"nobody signed {path}")
    if info.length > max_bytes:
        raise TrustError("length", f"{path}: {info.length} bytes signed, at most {max_bytes} are accepted")
    sha256 = info.hashes.get("sha256")
    if sha256 is None:
        raise TrustError("digest", f"{path}: no SHA-256 was signed")
    content = staged.read(staged_name(path, sha256), info.length)
    info.verify_length_and_hashes(content)
    return content


def _manifest(content: bytes, desired: DesiredState) -> Manifest:
    if len(content) != desired.bundle_size_bytes:
        raise TrustError("length", f"bundle.json is {len(content)} bytes, desired are {desired.bundle_size_bytes}")
    if hashlib.sha256(content).hexdigest() != desired.bundle_sha256:
        raise TrustError("digest", "bundle.json is not the one that is desired")
    try:
        manifest = parse_manifest(content)
    except ManifestError as error:
        raise TrustError("schema", str(error)) from error
    if (manifest.name, manifest.version) != (desired.name, desired.version):
        raise TrustError(
            "schema",
            f"bundle.json is {manifest.name} version {manifest.version}, "
            f"desired is {desired.name} version {desired.version}",
        )
    return manifest


def _require_signed_blobs(updater: Updater, manifest: Manifest) -> None:
    for artifact in manifest.artifacts:
        info = updater.get_targetinfo(blob_target(artifact.sha256))
        if info is None:
            raise TrustError("missing", f"{artifact.path}: the bundle lists it, but nobody signed it as a target")
        if info.length != artifact.size_bytes:
            raise TrustError("length", f"{artifact.path}: {artifact.size_bytes} bytes listed, {info.length} signed")
        if info.hashes.get("sha256") != artifact.sha256:
            raise TrustError("digest", f"{artifact.path}: another digest was signed")


def _require_meant_for(device: Device, manifest: Manifest) -> None:
    """Compare the device with what the bundle itself says, which another key signed than the desired state."""
    names = sorted({target.device for target in manifest.targets})
    if device.selector.get("device") not in names:
        found = device.selector.get("device", "not said to be any")
        raise TrustError("wrong-device", f"the bundle is for {' or '.join(names)}; this device is {found}")


def _signed_until(updater: Updater, group: str) -> datetime:
    trusted = updater._trusted_set
    roles = (trusted.root, trusted.timestamp, trusted.snapshot, trusted.targets, trusted[group])
    return min(role.expires for role in roles)


def _signed_time(updater: Updater) -> SeenTime:
    timestamp = updater._trusted_set.timestamp
    signed_at = utc_from(timestamp.unrecognized_fields.get(SIGNED_AT))
    if signed_at > timestamp.expires:
        raise TrustError("clock", f"timestamp.json was signed at {signed_at} and expired before that")
    return SeenTime(signed_at, tuple(_timestamp_keyids(updater)))


def _later(seen: SeenTime | None, signed: SeenTime) -> SeenTime:
    is_kept = seen is not None and set(seen.keyids) <= set(signed.keyids) and seen.signed_at > signed.signed_at
    return SeenTime(seen.signed_at, signed.keyids) if is_kept and seen is not None else signed


def _keep_metadata(trust: Path, scratch: Path, group: str) -> None:
    """Keep what was verified; the timestamp comes first, because it forbids older ones of all the others."""
    for role in ("timestamp", "snapshot", "targets", group):
        content = keeping.read_if_there(scratch / f"{role}.json")
        if content is not None:
            keeping.keep(keeping.role_file(trust, role), content)


@contextmanager
def _refusals_named() -> Iterator[None]:
    """Turn every refusal of tuf into a `TrustError` of the right kind."""
    try:
        yield
    except exceptions.DownloadHTTPError as error:
        raise TrustError("missing", str(error)) from error
    except exceptions.DownloadLengthMismatchError as error:
        raise TrustError("length", str(error)) from error
    except exceptions.DownloadError as error:
        raise TrustError("missing", str(error)) from error
    except exceptions.RepositoryError as error:
        raise TrustError(_kind_of(error), str(error)) from error
    except _UNREADABLE as error:
        raise TrustError("schema", f"unreadable metadata: {error}") from error


def _kind_of(error: exceptions.RepositoryError) -> TrustProblem:
    if isinstance(error, exceptions.ExpiredMetadataError):
        return "expired"
    if isinstance(error, exceptions.BadVersionNumberError) or "missing info for" in str(error):
        return "rollback"
    if isinstance(error, exceptions.UnsignedMetadataError):
        return "signature"
    if isinstance(error, exceptions.LengthOrHashMismatchError):
        return "length" if "length" in str(error) else "digest"
    return "missing" if "not part of snapshot" in str(error) or "does not contain" in str(error) else "schema"
