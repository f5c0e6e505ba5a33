"""Names that host and device must agree on: roles, targets, and files of the staging folder."""

from __future__ import annotations

import re

BUNDLE_NAME = "bundle.json"
SIGNED_AT = "x-edgekd-signed-at"
"""Field of the signed part of timestamp.json: when it was signed, `2026-01-31T12:00:00Z`. TUF only knows expiry."""

_GROUP = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_TOP_LEVEL = frozenset({"root", "targets", "snapshot", "timestamp"})


def is_group_name(name: str) -> bool:
    """Tell whether a group of devices may be called so: it is also a role, a folder and part of a file name."""
    return _GROUP.fullmatch(name) is not None and name not in _TOP_LEVEL


def bundle_target(sha256: str) -> str:
    """Return the TUF target of a `bundle.json` by its digest."""
    return f"bundles/{sha256}/{BUNDLE_NAME}"


def blob_target(sha256: str) -> str:
    """Return the TUF target of a bundle's file by its digest."""
    return f"blobs/{sha256}"


def staged_name(target: str, sha256: str) -> str:
    """Return the name of a small target in the staging folder: its digest, then its own name."""
    return f"{sha256}.{target.rpartition('/')[2]}"
