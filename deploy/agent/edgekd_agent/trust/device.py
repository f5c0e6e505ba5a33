"""Who this device is: `device.json`, written once when it is provisioned."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekd_agent import strict
from edgekd_agent.reader import open_regular
from edgekd_agent.trust.documents import checked
from edgekd_agent.trust.errors import TrustError
from edgekd_agent.trust.names import is_group_name

MAX_DEVICE_BYTES = 1 << 16
_DEVICE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Device:
    """Who a device is.

    Attributes:
        device_id: Its own name.
        group: Group whose desired state it follows.
        selector: Facts given at provisioning (`{"device": "jetson-orin-nx-16gb"}`).
    """

    device_id: str
    group: str
    selector: Mapping[str, str]

    @property
    def facts(self) -> dict[str, str]:
        """Everything a release may be selected by: `selector`, `device_id` and `group`."""
        return {**self.selector, "device_id": self.device_id, "group": self.group}


@dataclass(frozen=True)
class _DeviceFile:
    schema_version: Literal[1]
    device_id: str
    group: str
    selector: Mapping[str, str]


def read_device(path: Path) -> Device:
    """Read `device.json`.

    Args:
        path: The file; a link is refused.

    Returns:
        The device.

    Raises:
        TrustError: `"missing"`, or `"schema"` with every problem.
    """
    try:
        with open_regular(path) as stream:
            content = stream.read(MAX_DEVICE_BYTES + 1)
    except OSError as error:
        raise TrustError("missing", f"{path} cannot be read ({error.strerror}); provision this device") from error
    return parse_device(content)


def parse_device(content: bytes) -> Device:
    """Check the bytes of a `device.json`, which people may lay out as they like.

    Raises:
        TrustError: `"schema"` with every problem.
    """
    found = checked(content, _DeviceFile, "device.json", most_bytes=MAX_DEVICE_BYTES, parse=strict.load, claims=_claims)
    return Device(found.device_id, found.group, found.selector)


def _claims(found: _DeviceFile) -> list[tuple[object, str]]:
    return [
        (_DEVICE_ID.fullmatch(found.device_id), f"device_id {found.device_id!r} is not letters, digits and ._-"),
        (is_group_name(found.group), f"group {found.group!r} is not a-z, 0-9 and -, or is the name of a role"),
        (
            not {"device_id", "group"} & set(found.selector),
            "selector: device_id and group are facts of their own, not of the selector",
        ),
    ]
