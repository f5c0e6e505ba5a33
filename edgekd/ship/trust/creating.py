"""A new repository: its keys, its first root, and empty metadata for everyone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from edgekd_agent.trust import is_group_name
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Snapshot, Targets, Timestamp

from edgekd.core import atomic
from edgekd.core.errors import ConfigError, StorageError
from edgekd.ship.trust import store
from edgekd.ship.trust.keys import ANCHOR, Passphrase, make_key, passphrase_from_environment, require_apart
from edgekd.ship.trust.roles import ONLINE, Lifetimes, Roles, utc_now
from edgekd.ship.trust.signing import Signing, reissued, sign_with


@dataclass(frozen=True)
class Initialised:
    """What was made.

    Attributes:
        repo: The repository.
        root: Its first root: what devices are provisioned with.
        keys: Key identifiers by role.
        threshold: How many root keys must sign a root.
    """

    repo: Path
    root: Path
    keys: dict[str, tuple[str, ...]]
    threshold: int


def init(
    repo: Path,
    keys: Path,
    groups: Sequence[str],
    *,
    lifetimes: Lifetimes | None = None,
    root_keys: int = 3,
    root_threshold: int = 2,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> Initialised:
    """Make a repository and its keys.

    Args:
        repo: Folder of the repository; absent or empty.
        keys: Folder of the private keys, apart from it; absent or empty.
        groups: Groups of devices.
        lifetimes: How long signatures last.
        root_keys: Number of root keys.
        root_threshold: How many of them must sign.
        passphrase: Encrypts the private keys when it gives one.
        now: Time of signing; the present by default.

    Returns:
        What was made.

    Raises:
        ConfigError: An argument is wrong, or something is in a folder already.
        StorageError: The file system refused.
    """
    lifetimes = lifetimes or Lifetimes()
    check_init(repo, keys, groups, lifetimes=lifetimes, root_keys=root_keys, root_threshold=root_threshold)
    try:
        repo.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {repo}: {error.strerror}") from error
    with store.only_operator(repo):
        check_init(repo, keys, groups, lifetimes=lifetimes, root_keys=root_keys, root_threshold=root_threshold)
        secret = passphrase()
        signers = {"root": [make_key(keys, "root", secret) for _ in range(root_keys)]}
        for label in ("targets", ONLINE, *groups):
            signers[label] = [make_key(keys, label, secret)]
        roles = _first_roles(signers, groups, root_threshold)
        files = _signed(roles, Signing(keys, passphrase, lifetimes, now or utc_now()), groups)
        atomic.write_bytes(keys / ANCHOR, files["1.root.json"].to_bytes())
        store.write(repo, files, {store.FACTS_NAME: store.facts_bytes(lifetimes)})
    return Initialised(
        repo=repo,
        root=repo / "metadata" / "1.root.json",
        keys={role: tuple(key.keyid for key in roles.keys_of(role)) for role, _ in roles},
        threshold=root_threshold,
    )


def check_init(
    repo: Path, keys: Path, groups: Sequence[str], *, lifetimes: Lifetimes, root_keys: int, root_threshold: int
) -> None:
    """Raise `ConfigError` when `init` would refuse these arguments."""
    lifetimes.require_positive()
    wrong = [group for group in groups if not is_group_name(group)]
    if wrong or not groups or len(set(groups)) != len(groups):
        named = ", ".join(map(repr, wrong)) or ", ".join(groups) or "none"
        raise ConfigError(f"groups {named}: give each once, of a-z, 0-9 and -, and none called as a role of TUF")
    if not 1 <= root_threshold <= root_keys <= 16:
        raise ConfigError(f"{root_threshold} of {root_keys} root keys: it takes 1 <= threshold <= keys <= 16")
    require_apart(repo, keys)
    if repo.exists() and (not repo.is_dir() or any(path.name != ".lock" for path in repo.iterdir())):
        raise ConfigError(f"{repo} is not empty: a repository is made once; to change keys use rotate and revoke")
    if keys.exists() and (not keys.is_dir() or any(keys.iterdir())):
        raise ConfigError(f"{keys} is not empty: choose an empty folder for the private keys")


def _first_roles(signers: dict[str, list[CryptoSigner]], groups: Sequence[str], threshold: int) -> Roles:
    root, targets = Root(), Targets()
    for role, label in (("root", "root"), ("targets", "targets"), ("snapshot", ONLINE), ("timestamp", ONLINE)):
        for signer in signers[label]:
            root.add_key(signer.public_key, role)
    root.roles["root"].threshold = threshold
    targets.delegations = Delegations({}, {group: group_role(group) for group in groups})
    for group in groups:
        targets.add_key(signers[group][0].public_key, group)
    return Roles(
        root=Metadata(root),
        targets=Metadata(targets),
        groups={group: Metadata(Targets()) for group in groups},
        snapshot=Metadata(Snapshot()),
        timestamp=Metadata(Timestamp()),
    )


def group_role(group: str) -> DelegatedRole:
    """Return the role of a group: one key, and only the targets in the group's own folder."""
    return DelegatedRole(group, [], 1, True, [f"{group}/*"])


def _signed(roles: Roles, signing: Signing, groups: Sequence[str]) -> dict[str, Metadata[Any]]:
    for _, metadata in roles:
        metadata.signed.version = 0
    files = reissued(roles, ["targets", *groups], signing)
    root = roles.root
    root.signed.version, root.signed.expires = 1, signing.now + signing.lifetimes.of("root")
    demand = (roles.keys_of("root"), root.signed.roles["root"].threshold)
    sign_with(root, [demand], signing, role="root", must_be_complete=True)
    return {"1.root.json": root, **files}
