"""Keeping a repository alive: signatures renewed before they expire, bundles taken back, a look at how it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from edgekd_agent import parse_manifest
from edgekd_agent.trust import blob_target, bundle_target

from edgekd.core.errors import ConfigError, unknown_name
from edgekd.ship.trust import store
from edgekd.ship.trust.ceremony import opened, pending_root
from edgekd.ship.trust.keys import Passphrase, key_file, passphrase_from_environment
from edgekd.ship.trust.publishing import desired_of, released_manifest_bytes
from edgekd.ship.trust.roles import Lifetimes, Roles, utc_now
from edgekd.ship.trust.signing import reissued, require_later, with_listings
from edgekd.ship.trust.statement import statement_target


@dataclass(frozen=True)
class RoleFacts:
    """A role as it stands.

    Attributes:
        role: Its name.
        version: Version of its metadata.
        expires: When its signatures expire.
        is_expired: Whether they have.
        threshold: How many of its keys must sign.
        keys: Key identifiers.
        key_files: Those of their private halves that are in the folder of keys.
        wants: For a group: name, version and digest of the bundle it wants; empty otherwise.
    """

    role: str
    version: int
    expires: datetime
    is_expired: bool
    threshold: int
    keys: tuple[str, ...]
    key_files: tuple[Path, ...]
    wants: tuple[str, int, str] | tuple[()]


@dataclass(frozen=True)
class RepositoryFacts:
    """A repository as it stands.

    Attributes:
        roles: Its roles.
        pending: A root that waits for signatures, or None.
        releases: Name, version and digest of every released bundle, sorted.
    """

    roles: tuple[RoleFacts, ...]
    pending: Path | None
    releases: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True)
class Refreshed:
    """What was signed again.

    Attributes:
        roles: Those that were.
        waiting: Those in the second half of their life whose keys are not here.
        signed_until: When the first signature of the repository expires now.
    """

    roles: tuple[str, ...]
    waiting: tuple[str, ...]
    signed_until: datetime


def refresh(
    repo: Path,
    keys: Path,
    *,
    roles: Sequence[str] = (),
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> Refreshed:
    """Sign again what must not expire: snapshot and timestamp always, and all in the second half of its life.

    Args:
        repo: The repository.
        keys: Folder of private keys: the online one at least.
        roles: Further roles to sign again, whatever their age; not the root.
        passphrase: Asked when a key is encrypted.
        now: Time of signing; the present by default.

    Returns:
        What was signed again.

    Raises:
        ConfigError: A role is not known.
        PreconditionError: A key of the timestamp or of a role that was asked for is missing, or the clock is behind.
    """
    with opened(repo, keys, passphrase, now, with_pending=True) as (current, signing):
        require_renewable(current, roles)
        require_later(current, signing.now)
        old = in_second_half(current, signing.lifetimes, signing.now)
        everything = renewed_with(current, keys, {*roles}, old)
        store.write(repo, reissued(current, everything, signing), {})
    return Refreshed(
        roles=tuple(sorted(everything)),
        waiting=tuple(sorted(old - everything)),
        signed_until=min(metadata.signed.expires for _, metadata in current),
    )


def withdraw(
    repo: Path,
    keys: Path,
    bundle_sha256: str,
    *,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> tuple[str, ...]:
    """Take a released bundle back: no group may want it any more, and devices refuse it.

    Args:
        repo: The repository.
        keys: Folder of private keys: of targets and the online one.
        bundle_sha256: Digest of its `bundle.json`.
        passphrase: Asked when a key is encrypted.
        now: Time of signing; the present by default.

    Returns:
        Digests of the files that no other bundle has.

    Raises:
        ConfigError: It was not released, or a group still wants it.
    """
    with opened(repo, keys, passphrase, now) as (roles, signing):
        require_later(roles, signing.now)
        dropped = only_of(repo, roles, bundle_sha256)
        targets = roles.targets.signed.targets
        for path in (bundle_target(bundle_sha256), statement_target(bundle_sha256), *map(blob_target, dropped)):
            targets.pop(path, None)
        store.write(repo, reissued(roles, ["targets"], signing), {})
        for digest in dropped:
            (repo / "blobs" / digest).unlink(missing_ok=True)
    return tuple(dropped)


def renewed_with(current: Roles, keys: Path, asked: set[str], old: set[str]) -> set[str]:
    """Return the roles to sign again: the two that live shortest, those asked for, and old ones whose keys are here."""
    return with_listings(asked | {role for role in old if can_sign(current, role, keys)} | {"snapshot"})


def require_renewable(current: Roles, roles: Sequence[str]) -> None:
    """Raise `ConfigError` unless these are roles that `refresh` may sign."""
    for role in roles:
        if role not in dict(current) or role == "root":
            raise unknown_name("role", role, set(dict(current)) - {"root"})


def only_of(repo: Path, roles: Roles, bundle_sha256: str) -> list[str]:
    """Return the files that no other bundle has; raises `ConfigError` when it was not released or is still wanted."""
    if bundle_target(bundle_sha256) not in roles.targets.signed.targets:
        raise ConfigError(f"no bundle {bundle_sha256} was released from {repo}")
    wants = {group: desired_of(repo, roles, group) for group in roles.groups}
    wanting = [group for group, want in wants.items() if want and want.bundle_sha256 == bundle_sha256]
    if wanting:
        raise ConfigError(f"{', '.join(wanting)} want this bundle: publish another one for them first")
    kept = {item for digest in releases_of(roles) if digest != bundle_sha256 for item in blobs_of(repo, digest)}
    return sorted(set(blobs_of(repo, bundle_sha256)) - kept)


def show(repo: Path, keys: Path | None = None, *, now: datetime | None = None) -> RepositoryFacts:
    """Tell how a repository stands: versions, expiry, keys, what groups want, what was released.

    Args:
        repo: The repository.
        keys: Folder of private keys, to say which are there.
        now: Time to judge expiry by; the present by default.

    Raises:
        SignatureError: It was changed by another hand than the keys'.
    """
    now = now or utc_now()
    with store.reading(repo):
        roles = store.load(repo)
        facts = tuple(_role_facts(repo, roles, role, keys, now) for role, _ in roles)
        manifests = [(parse_manifest(released_manifest_bytes(repo, digest)), digest) for digest in releases_of(roles)]
        releases = sorted((manifest.name, manifest.version, digest) for manifest, digest in manifests)
        return RepositoryFacts(facts, pending_root(repo, roles.root.signed.version), tuple(releases))


def _role_facts(repo: Path, roles: Roles, role: str, keys: Path | None, now: datetime) -> RoleFacts:
    signed = dict(roles)[role].signed
    its_keys = roles.keys_of(role)
    files = [key_file(keys, key) for key in its_keys] if keys is not None else []
    want = desired_of(repo, roles, role) if role in roles.groups else None
    return RoleFacts(
        role=role,
        version=signed.version,
        expires=signed.expires,
        is_expired=signed.is_expired(now),
        threshold=roles.delegator(role).get_delegated_role(role).threshold,
        keys=tuple(key.keyid for key in its_keys),
        key_files=tuple(file for file in files if file is not None),
        wants=(want.name, want.version, want.bundle_sha256) if want else (),
    )


def in_second_half(roles: Roles, lifetimes: Lifetimes, now: datetime) -> set[str]:
    """Return the roles that have less than half of their life left."""
    return {role for role, one in roles if one.signed.expires - now < lifetimes.of(role) / 2}


def can_sign(roles: Roles, role: str, keys: Path) -> bool:
    """Tell whether a folder has enough keys of a role."""
    here = sum(key_file(keys, key) is not None for key in roles.keys_of(role))
    return here >= roles.delegator(role).get_delegated_role(role).threshold


def releases_of(roles: Roles) -> list[str]:
    """Return the digests of all released bundles."""
    targets = roles.targets.signed.targets
    return [info.hashes["sha256"] for path, info in targets.items() if path == bundle_target(info.hashes["sha256"])]


def blobs_of(repo: Path, bundle_sha256: str) -> list[str]:
    """Return the digests of the files of a released bundle."""
    manifest = parse_manifest(released_manifest_bytes(repo, bundle_sha256))
    return [artifact.sha256 for artifact in manifest.artifacts]
