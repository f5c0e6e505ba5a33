"""What a change would do, found out without writing anything and without a private key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgekd_agent.trust import bundle_target

from edgekd.core.errors import ConfigError
from edgekd.ship.trust import store
from edgekd.ship.trust.ceremony import missing_signatures, pending_root
from edgekd.ship.trust.keys import require_apart
from edgekd.ship.trust.publishing import (
    Published,
    desired_of,
    desired_state,
    read_release,
    require_free_version,
    require_group,
)
from edgekd.ship.trust.roles import TOP_LEVEL, Roles, utc_now
from edgekd.ship.trust.rotation import find_key, keys_to_replace, require_new_group, signed_anew
from edgekd.ship.trust.signing import with_listings
from edgekd.ship.trust.upkeep import Refreshed, in_second_half, only_of, renewed_with, require_renewable


@dataclass(frozen=True)
class KeyChange:
    """What a change of keys would do.

    Attributes:
        keys: Keys that would be replaced.
        roles: Roles that would be signed anew.
        root_version: Version of the root afterwards.
    """

    keys: tuple[str, ...]
    roles: tuple[str, ...]
    root_version: int


def check_publish(
    repo: Path,
    keys: Path,
    bundle: Path,
    group: str,
    *,
    version: int | None = None,
    select: Mapping[str, str] | None = None,
) -> Published:
    """Tell what `publish` would do, or raise as it would; `signed_until` is that of today's signatures."""
    require_apart(repo, keys)
    release = read_release(bundle, version)
    with store.reading(repo):
        store.require_anchor(repo, keys)
        roles = store.load(repo)
        require_group(roles, group)
        require_free_version(repo, roles, release)
        desired = desired_state(release.manifest, release.sha256, len(release.content), group, select)
        is_released = bundle_target(release.sha256) in roles.targets.signed.targets
        return Published(
            group=group,
            name=desired.name,
            version=desired.version,
            bundle_sha256=desired.bundle_sha256,
            selectors=desired.selectors,
            is_changed=not is_released or desired_of(repo, roles, group) != desired,
            signed_until=min(one.signed.expires for role, one in roles if role in (*TOP_LEVEL, group)),
        )


def check_refresh(repo: Path, keys: Path, *, roles: Sequence[str] = (), now: datetime | None = None) -> Refreshed:
    """Tell what `refresh` would do; `signed_until` is that of today's signatures."""
    with store.reading(repo):
        current = store.load(repo)
        require_renewable(current, roles)
        old = in_second_half(current, store.read_lifetimes(repo), now or utc_now())
        changed = renewed_with(current, keys, {*roles}, old)
        first_end = min(one.signed.expires for _, one in current)
        return Refreshed(tuple(sorted(changed)), tuple(sorted(old - changed)), first_end)


def check_withdraw(repo: Path, bundle_sha256: str) -> tuple[str, ...]:
    """Return the files that `withdraw` would drop, or raise as it would."""
    with store.reading(repo):
        return tuple(only_of(repo, store.load(repo), bundle_sha256))


def check_group(repo: Path, group: str) -> None:
    """Raise `ConfigError` when `add_group` would."""
    with store.reading(repo):
        require_new_group(store.load(repo), group)


def plan_rotation(repo: Path, role: str) -> KeyChange:
    """Tell what `rotate` would do, or raise as it would."""
    with store.reading(repo):
        roles = _without_pending(repo)
        return _change(roles, keys_to_replace(roles, role))


def plan_revocation(repo: Path, keyid: str) -> KeyChange:
    """Tell what `revoke` would do, or raise as it would."""
    with store.reading(repo):
        roles = _without_pending(repo)
        return _change(roles, [find_key(roles, keyid)])


def plan_renewal(repo: Path) -> KeyChange:
    """Tell what `renew_root` would do, or raise as it would."""
    with store.reading(repo):
        return KeyChange((), ("root",), _without_pending(repo).root.signed.version + 1)


def check_import(repo: Path, path: Path) -> int:
    """Return how many signatures would still be missing after `import_root`, or raise as it would."""
    with store.reading(repo):
        return missing_signatures(repo, store.load(repo), path)


def describe_root(path: Path) -> dict[str, Any]:
    """Tell what a root says, signed or not: plain data of its version, expiry, and the keys of every role."""
    root = store.read_root(path).signed
    roles = {name: {"threshold": role.threshold, "keys": list(role.keyids)} for name, role in root.roles.items()}
    return {"version": root.version, "expires": root.expires.isoformat(), "roles": roles}


def _without_pending(repo: Path) -> Roles:
    roles = store.load(repo)
    waiting = pending_root(repo, roles.root.signed.version)
    if waiting is not None:
        raise ConfigError(f"{waiting} waits for signatures: edgekd ship keys import, or remove it to give that up")
    return roles


def _change(roles: Roles, keyids: Sequence[str]) -> KeyChange:
    anew = signed_anew(roles, keyids)
    touches_root = not anew <= {*roles.groups, "targets"} or any("targets" in roles.roles_of(keyid) for keyid in keyids)
    followers = with_listings(anew)
    version = roles.root.signed.version + touches_root
    return KeyChange(tuple(keyids), tuple(sorted(followers | ({"root"} if touches_root else set()))), version)
