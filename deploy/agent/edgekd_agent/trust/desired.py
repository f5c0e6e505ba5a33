"""Desired state: the small signed file that names the one bundle a group of devices should run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgekd_agent import strict
from edgekd_agent.reader import MAX_MANIFEST_BYTES
from edgekd_agent.trust.documents import checked
from edgekd_agent.trust.names import is_group_name

DESIRED_NAME = "desired.json"
MAX_DESIRED_BYTES = 1 << 16
MAX_SELECTORS = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class DesiredState:
    """What a group of devices should run.

    Attributes:
        schema_version: Always 1.
        group: The group.
        name: Name of the model line.
        version: Its release.
        bundle_sha256: Digest of its `bundle.json`.
        bundle_size_bytes: Length of its `bundle.json`.
        selectors: Devices of the group that it is for: those with every fact of at least one entry.
    """

    schema_version: Literal[1]
    group: str
    name: str
    version: int
    bundle_sha256: str
    bundle_size_bytes: int
    selectors: tuple[Mapping[str, str], ...]

    def is_for(self, facts: Mapping[str, str]) -> bool:
        """Tell whether a device with these facts is meant."""
        return any(selector.items() <= facts.items() for selector in map(dict, self.selectors))


def desired_target(group: str) -> str:
    """Return the TUF target of a group's desired state; the group's role may sign nothing else."""
    return f"{group}/{DESIRED_NAME}"


def desired_bytes(desired: DesiredState) -> bytes:
    """Return the exact content of `desired.json`."""
    return strict.canonical(dataclasses.asdict(desired))


def parse_desired(content: bytes) -> DesiredState:
    """Check the bytes of a `desired.json`.

    Args:
        content: The whole file.

    Returns:
        The checked desired state.

    Raises:
        TrustError: `"schema"` with every problem.
    """
    return checked(
        content, DesiredState, DESIRED_NAME, most_bytes=MAX_DESIRED_BYTES, parse=strict.parse, claims=_claims
    )


def _claims(desired: DesiredState) -> list[tuple[object, str]]:
    return [
        (is_group_name(desired.group), f"group {desired.group!r} is no name of a group"),
        (_NAME.fullmatch(desired.name), f"name {desired.name!r} is not letters, digits and ._-"),
        (desired.version >= 1, f"version {desired.version} is below 1"),
        (_SHA256.fullmatch(desired.bundle_sha256), "bundle_sha256 is not 64 hexadecimal digits"),
        (
            0 < desired.bundle_size_bytes <= MAX_MANIFEST_BYTES,
            f"bundle_size_bytes {desired.bundle_size_bytes} is not in 1..{MAX_MANIFEST_BYTES}",
        ),
        (0 < len(desired.selectors) <= MAX_SELECTORS, f"selectors: {len(desired.selectors)}, not 1..{MAX_SELECTORS}"),
        (all(desired.selectors), "selectors: an empty one would be every device"),
    ]
