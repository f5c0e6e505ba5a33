"""Where releases come from, as narrow as a fleet needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgekd.ship.transport.answers import Model


@dataclass(frozen=True)
class Parcel:
    """Files of one release for one device.

    Attributes:
        metadata: Metadata files by the names that the device's staging wants.
        blobs: Files by digest.
    """

    metadata: Mapping[str, Path]
    blobs: Mapping[str, Path]


class Source(Protocol):
    """A repository of signed releases."""

    def desired(self, group: str) -> Model | None:
        """Return what a group is to run; None when nothing was published for it.

        Raises:
            BundleError: The repository is damaged.
        """
        ...

    def parcel(self, group: str, *, root_version: int) -> Parcel:
        """Return what a device of a group needs that has a root of trust of that version.

        Raises:
            BundleError: The repository is damaged, or published nothing for the group.
        """
        ...
