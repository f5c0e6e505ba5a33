"""Raises versions, dates and signs metadata: everything that changed, and everything that lists it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from edgekd_agent.trust import SIGNED_AT
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, MetaFile

from edgekd.core.errors import PreconditionError
from edgekd.ship.trust.keys import Passphrase, load_signer
from edgekd.ship.trust.roles import Lifetimes, Roles

_FORM = "%Y-%m-%dT%H:%M:%SZ"
_TARGETS_LIMIT_BYTES = 5 << 20


@dataclass(frozen=True)
class Signing:
    """Who signs, when, and for how long.

    Attributes:
        keys: Folder of private keys.
        passphrase: Asked when a key is encrypted.
        lifetimes: Of the signatures.
        now: Time of signing.
    """

    keys: Path
    passphrase: Passphrase
    lifetimes: Lifetimes
    now: datetime


def reissued(roles: Roles, changed: Collection[str], signing: Signing) -> dict[str, Metadata[Any]]:
    """Sign roles whose content changed as new versions, with the snapshot and the timestamp that follow from them.

    Args:
        roles: The metadata; those signed anew are changed in place.
        changed: Names of the changed roles, the root not among them.
        signing: Who signs.

    Returns:
        The new metadata by file name.

    Raises:
        PreconditionError: A key is not in the folder.
    """
    files: dict[str, Metadata[Any]] = {}
    everything = with_listings(changed)
    for role, metadata in roles:
        if role not in everything:
            continue
        _date(role, metadata, signing)
        if role == "timestamp":
            metadata.signed.unrecognized_fields[SIGNED_AT] = signing.now.strftime(_FORM)
        threshold = roles.delegator(role).get_delegated_role(role).threshold
        sign_with(metadata, [(roles.keys_of(role), threshold)], signing, role=role, must_be_complete=True)
        _list(roles, role, metadata)
        files["timestamp.json" if role == "timestamp" else f"{metadata.signed.version}.{role}.json"] = metadata
    return files


def with_listings(changed: Collection[str]) -> set[str]:
    """Return changed roles together with those that list them; the root is listed by none."""
    names = set(changed) - {"root"}
    return names | ({"snapshot", "timestamp"} if names - {"timestamp"} else set())


def _date(role: str, metadata: Metadata[Any], signing: Signing) -> None:
    metadata.signatures.clear()
    metadata.signed.version += 1
    metadata.signed.expires = signing.now + signing.lifetimes.of(role)


def _list(roles: Roles, role: str, metadata: Metadata[Any]) -> None:
    """Put a newly signed role into the one that lists it."""
    content = metadata.to_bytes()
    if len(content) > _TARGETS_LIMIT_BYTES:
        raise PreconditionError(f"{role} is {len(content)} bytes, devices read {_TARGETS_LIMIT_BYTES}: withdraw some")
    listed = MetaFile(metadata.signed.version, len(content), {"sha256": sha256(content).hexdigest()})
    if role == "snapshot":
        roles.timestamp.signed.snapshot_meta = listed
    elif role != "timestamp":
        roles.snapshot.signed.meta[f"{role}.json"] = listed


def sign_with(
    metadata: Metadata[Any],
    demands: Iterable[tuple[Collection[Key], int]],
    signing: Signing,
    *,
    role: str,
    must_be_complete: bool,
) -> bool:
    """Add as many signatures as are demanded and no more; those that are there count.

    Args:
        metadata: What to sign.
        demands: Keys, and how many of them must sign; all demands must be met.
        signing: Where the private keys are.
        role: Name of the role in messages.
        must_be_complete: Whether a demand that cannot be met is an error.

    Returns:
        Whether every demand is met.

    Raises:
        PreconditionError: It is not, and must be.
    """
    is_complete = True
    for keys, threshold in demands:
        left = threshold - sum(key.keyid in metadata.signatures for key in keys)
        for key in keys:
            if left > 0 and key.keyid not in metadata.signatures:
                signer = load_signer(signing.keys, key, signing.passphrase)
                if signer is not None:
                    metadata.sign(signer, append=True)
                    left -= 1
        is_complete = is_complete and left <= 0
        if left > 0 and must_be_complete:
            missing = ", ".join(key.keyid[:16] for key in keys if key.keyid not in metadata.signatures)
            raise PreconditionError(f"{role} needs {left} more signature(s); {signing.keys} has no key of {missing}")
    return is_complete


def signed_at(roles: Roles) -> str:
    """Return when the newest timestamp was signed; empty for one that does not say."""
    return str(roles.timestamp.signed.unrecognized_fields.get(SIGNED_AT, ""))


def require_later(roles: Roles, now: datetime) -> None:
    """Raise `PreconditionError` when the clock runs behind the last signature: devices would take it for a replay."""
    last = signed_at(roles)
    if now.strftime(_FORM) < last:
        raise PreconditionError(
            f"this machine's clock says {now.strftime(_FORM)}, the last signature was made at {last}: set the clock; "
            "if that signature was wrong, edgekd ship keys rotate timestamp makes devices forget it"
        )
