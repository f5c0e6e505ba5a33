"""Keys change: a role gets new ones, one key is revoked, or a group with a key of its own is added.

Devices follow a new root when enough keys of the old one and of the new one signed it, and drop what the replaced keys
signed.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from edgekd_agent.trust import is_group_name
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Targets

from edgekd.core.errors import ConfigError, SignatureError, unknown_name
from edgekd.ship.trust import store
from edgekd.ship.trust.ceremony import RootChange, Rotated, finished, opened
from edgekd.ship.trust.creating import group_role
from edgekd.ship.trust.keys import Passphrase, make_key, new_keys, passphrase_from_environment
from edgekd.ship.trust.roles import ONLINE, Roles
from edgekd.ship.trust.signing import Signing, reissued, require_later, with_listings

_MIN_ID_CHARS = 8


def rotate(
    repo: Path,
    keys: Path,
    role: str,
    *,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> Rotated:
    """Replace all keys of a role by new ones; a key that other roles share is replaced there too.

    Args:
        repo: The repository.
        keys: Folder of private keys; receives the new ones.
        role: `"root"`, `"targets"`, `"snapshot"`, `"timestamp"` or a group.
        passphrase: Asked when a key is encrypted; encrypts the new ones.
        now: Time of signing; the present by default.

    Returns:
        What became of the keys.

    Raises:
        ConfigError: There is no such role, or an earlier change waits for signatures.
        PreconditionError: A key that must sign is not here.
    """
    with opened(repo, keys, passphrase, now) as (roles, signing):
        return _replaced(repo, roles, keys_to_replace(roles, role), signing)


def revoke(
    repo: Path,
    keys: Path,
    keyid: str,
    *,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> Rotated:
    """Replace one key by a new one wherever it may sign; where others can, it does not sign its own removal.

    Args:
        repo: The repository.
        keys: Folder of private keys; receives the new one.
        keyid: The key, or the first 8 or more digits of it.
        passphrase: Asked when a key is encrypted; encrypts the new one.
        now: Time of signing; the present by default.

    Returns:
        What became of the keys.

    Raises:
        ConfigError: No key, or more than one, is called so, or an earlier change waits for signatures.
        PreconditionError: A key that must sign is not here.
    """
    with opened(repo, keys, passphrase, now) as (roles, signing):
        return _replaced(repo, roles, [find_key(roles, keyid)], signing)


def add_group(
    repo: Path,
    keys: Path,
    group: str,
    *,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> str:
    """Add a group of devices with a key of its own.

    Args:
        repo: The repository.
        keys: Folder of private keys: of targets and the online one; receives the new one.
        group: Name of the group.
        passphrase: Asked when a key is encrypted; encrypts the new one.
        now: Time of signing; the present by default.

    Returns:
        Identifier of the new key.

    Raises:
        ConfigError: The name is taken, or no name of a group.
        PreconditionError: A key that must sign is not here.
    """
    with opened(repo, keys, passphrase, now) as (current, signing):
        require_new_group(current, group)
        require_later(current, signing.now)
        empty = Metadata(Targets())
        empty.signed.version = 0
        roles = replace(current, groups={**current.groups, group: empty})
        delegations = roles.targets.signed.delegations
        if delegations is None or delegations.roles is None:
            raise SignatureError(f"the targets of {repo} delegate to nobody; it was not made by edgekd")
        delegations.roles[group] = group_role(group)
        with new_keys(keys) as made:
            made.append(make_key(keys, group, passphrase()).public_key)
            roles.targets.signed.add_key(made[0], group)
            store.write(repo, reissued(roles, ["targets", group], signing), {})
    return made[0].keyid


def renew_root(
    repo: Path, keys: Path, *, passphrase: Passphrase = passphrase_from_environment, now: datetime | None = None
) -> Rotated:
    """Sign the root again with a later expiry and the same keys; it may wait for absent ones as a rotation does."""
    with opened(repo, keys, passphrase, now) as (roles, signing):
        return _replaced(repo, roles, [], signing)


def keys_to_replace(roles: Roles, role: str) -> list[str]:
    """Return the keys of a role; raises `ConfigError` when there is no such role."""
    if role not in dict(roles):
        raise unknown_name("role", role, dict(roles))
    return [key.keyid for key in roles.keys_of(role)]


def find_key(roles: Roles, keyid: str) -> str:
    """Return the one key whose identifier starts so; raises `ConfigError` when none or several do."""
    known = {key.keyid for role, _ in roles for key in roles.keys_of(role)}
    found = [known_id for known_id in sorted(known) if known_id.startswith(keyid)]
    if len(keyid) < _MIN_ID_CHARS or len(found) != 1:
        raise ConfigError(f"{keyid!r} names {len(found)} keys; give {_MIN_ID_CHARS} or more digits of one in use")
    return found[0]


def require_new_group(roles: Roles, group: str) -> None:
    """Raise `ConfigError` unless a group may be added under this name."""
    if not is_group_name(group) or group in roles.groups:
        raise ConfigError(f"group {group!r}: choose a new name of a-z, 0-9 and -, not that of a role of TUF")


def signed_anew(roles: Roles, keyids: Sequence[str]) -> set[str]:
    """Return the roles that sign with these keys, and the one that names the keys of groups."""
    affected = {role for keyid in keyids for role in roles.roles_of(keyid)}
    return affected | ({"targets"} if affected & set(roles.groups) else set())


def _replaced(repo: Path, roles: Roles, keyids: Sequence[str], signing: Signing) -> Rotated:
    old = copy.deepcopy(roles.root.signed)
    replaced: dict[str, str] = {}
    changed = signed_anew(roles, keyids) - {"root"}
    affected = {role for keyid in keyids for role in roles.roles_of(keyid)}
    with new_keys(signing.keys) as made:
        for keyid in keyids:
            made.append(_swap(roles, keyid, signing))
            replaced[keyid] = made[-1].keyid
        if affected and affected <= set(roles.groups):
            require_later(roles, signing.now)
            store.write(repo, reissued(roles, changed, signing), {})
            return Rotated(replaced, tuple(sorted(with_listings(changed))), old.version)
        roles.root.signatures.clear()
        roles.root.signed.version += 1
        roles.root.signed.expires = signing.now + signing.lifetimes.of("root")
        return finished(repo, RootChange(roles, old, tuple(sorted(changed)), replaced), signing)


def _swap(roles: Roles, old: str, signing: Signing) -> Key:
    names = roles.roles_of(old)
    label = ONLINE if set(names) & {"snapshot", "timestamp"} else names[0]
    new = make_key(signing.keys, label, signing.passphrase()).public_key
    for role in names:
        roles.delegator(role).revoke_key(old, role)
        roles.delegator(role).add_key(new, role)
    return new
