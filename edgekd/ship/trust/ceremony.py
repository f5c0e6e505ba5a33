"""A new root: signed by enough keys of the old and of the new one, at once or by people who are elsewhere.

Where the root keys are elsewhere, the new root waits in `pending/` until their signatures were imported; all that
follows from it waits too, so that devices never see half of a change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root

from edgekd.core import atomic
from edgekd.core.errors import ConfigError, PreconditionError, SignatureError
from edgekd.ship.trust import store
from edgekd.ship.trust.keys import Passphrase, load_private, passphrase_from_environment, require_apart
from edgekd.ship.trust.roles import Roles, utc_now
from edgekd.ship.trust.signing import Signing, reissued, require_later, sign_with, with_listings


@dataclass(frozen=True)
class Rotated:
    """What became of the keys.

    Attributes:
        replaced: New key identifier by old one.
        roles: Roles that were signed anew, or will be.
        root_version: Version of the root that names the new keys.
        pending: The root that waits for signatures of absent keys; None when the change is done.
        signatures_missing: How many more it needs.
    """

    replaced: Mapping[str, str]
    roles: tuple[str, ...]
    root_version: int
    pending: Path | None = None
    signatures_missing: int = 0


@dataclass(frozen=True)
class RootChange:
    """A new root and what follows from it.

    Attributes:
        roles: The metadata with the new root, not signed enough yet.
        old: The root that devices trust now.
        changed: Roles besides the root that must be signed anew.
        replaced: New key identifier by old one.
    """

    roles: Roles
    old: Root
    changed: tuple[str, ...]
    replaced: Mapping[str, str]


def sign_root(path: Path, keys: Path, *, passphrase: Passphrase = passphrase_from_environment) -> int:
    """Sign a root that waits, on the machine where root keys are kept; needs no repository.

    Args:
        path: The root, as taken from `pending/`; receives the signatures.
        keys: Folder with root keys.
        passphrase: Asked when a key is encrypted.

    Returns:
        Number of signatures on it now.

    Raises:
        PreconditionError: There is no root key in the folder.
        SignatureError: The file is no root.
    """
    root = store.read_root(path)
    files = sorted(keys.glob("root.*.pem"))
    if not files:
        raise PreconditionError(f"{keys} has no root key")
    for file in files:
        root.sign(CryptoSigner(load_private(file, passphrase)), append=True)
    atomic.write_bytes(path, root.to_bytes())
    return len(root.signatures)


def import_root(
    repo: Path,
    keys: Path,
    path: Path,
    *,
    passphrase: Passphrase = passphrase_from_environment,
    now: datetime | None = None,
) -> Rotated:
    """Take signatures that were made elsewhere for the root that waits; with enough of them, finish the change.

    Args:
        repo: The repository.
        keys: Folder of private keys of the other roles that changed.
        path: A signed copy of the root that waits.
        passphrase: Asked when a key is encrypted.
        now: Time of signing; the present by default.

    Returns:
        What became of the change.

    Raises:
        ConfigError: Nothing waits for signatures.
        SignatureError: It is another root, or nobody whose signature is needed signed it.
        PreconditionError: A key of another role is missing.
    """
    with opened(repo, keys, passphrase, now, with_pending=True) as (roles, signing):
        waiting = _waiting(repo, roles)
        old = roles.root.signed
        root = _with_signatures_of(path, waiting, old)
        others = ("targets", "snapshot", "timestamp")
        changed = tuple(role for role in others if _keyids(old, role) != _keyids(root.signed, role))
        return finished(repo, RootChange(replace(roles, root=root), old, changed, {}), signing)


def missing_signatures(repo: Path, roles: Roles, path: Path) -> int:
    """Return how many signatures the root that waits would still need with those of `path`; raises as `import_root`."""
    return _missing(_with_signatures_of(path, _waiting(repo, roles), roles.root.signed), roles.root.signed)


def _waiting(repo: Path, roles: Roles) -> Path:
    waiting = pending_root(repo, roles.root.signed.version)
    if waiting is None:
        raise ConfigError(f"no root of {repo} waits for signatures")
    return waiting


def _with_signatures_of(path: Path, waiting: Path, old: Root) -> Metadata[Root]:
    root, brought = store.read_root(waiting), store.read_root(path)
    if brought.signed_bytes != root.signed_bytes:
        raise SignatureError(f"{path} is another root than {waiting}")
    if not _take(brought, root, old):
        raise SignatureError(f"{path} has no new signature by a key of the old or the new root")
    return root


def pending_root(repo: Path, newest: int) -> Path | None:
    """Return the root that waits to follow version `newest`; None when none does."""
    path = repo / "pending" / f"{newest + 1}.root.json"
    return path if path.is_file() else None


@contextmanager
def opened(
    repo: Path, keys: Path, passphrase: Passphrase, now: datetime | None, *, with_pending: bool = False
) -> Iterator[tuple[Roles, Signing]]:
    """Hold a repository for a change of keys; yield its verified metadata and how to sign."""
    require_apart(repo, keys)
    with store.locked(repo):
        store.require_anchor(repo, keys)
        roles = store.load(repo)
        waiting = pending_root(repo, roles.root.signed.version)
        if waiting is not None and not with_pending:
            raise ConfigError(f"{waiting} waits for signatures: edgekd ship keys import, or remove it to give that up")
        yield roles, Signing(keys, passphrase, store.read_lifetimes(repo), now or utc_now())


def finished(repo: Path, change: RootChange, signing: Signing) -> Rotated:
    """Sign the new root with the keys that are here; write all that changed when that is enough, or let it wait."""
    root, old = change.roles.root, change.old
    sign_with(root, _demands(root.signed, old), signing, role="root", must_be_complete=False)
    name = f"{root.signed.version}.root.json"
    signed_anew = tuple(sorted({*with_listings(change.changed), "root"}))
    missing = _missing(root, old)
    if missing:
        atomic.write_bytes(repo / "pending" / name, root.to_bytes())
        return Rotated(change.replaced, signed_anew, root.signed.version, repo / "pending" / name, missing)
    _drop_spare(root, old)
    if change.changed and "timestamp" not in change.changed:
        require_later(change.roles, signing.now)
    store.write(repo, {name: root, **reissued(change.roles, change.changed, signing)}, {})
    (repo / "pending" / name).unlink(missing_ok=True)
    return Rotated(change.replaced, signed_anew, root.signed.version)


def _keyids(root: Root, role: str) -> set[str]:
    return set(root.roles[role].keyids)


def _demands(new: Root, old: Root) -> list[tuple[list[Key], int]]:
    """Return who must sign: keys of both roots first, so that one signature counts twice and leavers sign last."""
    shared = _keyids(new, "root") & _keyids(old, "root")
    demands = []
    for root in (old, new):
        keys = [root.get_key(keyid) for keyid in root.roles["root"].keyids]
        demands.append((sorted(keys, key=lambda key: key.keyid not in shared), root.roles["root"].threshold))
    return demands


def _missing(root: Metadata[Root], old: Root) -> int:
    results = [one.get_verification_result("root", root.signed_bytes, root.signatures) for one in (old, root.signed)]
    return max(max(result.threshold - len(result.signed), 0) for result in results)


def _drop_spare(root: Metadata[Root], old: Root) -> None:
    """Leave no signature that is not needed: one that nobody must check is one that anybody could change."""
    for keyid in list(root.signatures):
        signature = root.signatures.pop(keyid)
        if _missing(root, old):
            root.signatures[keyid] = signature


def _take(brought: Metadata[Root], root: Metadata[Root], old: Root) -> int:
    """Take the valid new signatures of `brought` over to `root`; return their number."""
    taken = 0
    for keyid, signature in brought.signatures.items():
        key = old.keys.get(keyid) if keyid in _keyids(old, "root") else None
        key = key or (root.signed.keys.get(keyid) if keyid in _keyids(root.signed, "root") else None)
        if key is None or keyid in root.signatures:
            continue
        try:
            key.verify_signature(signature, root.signed_bytes)
        except UnverifiedSignatureError:
            continue
        root.signatures[keyid] = signature
        taken += 1
    return taken
