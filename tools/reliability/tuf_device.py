"""A device as far as trust goes: its root of trust, its staging folder, and an engine that runs meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from edgekd_agent.trust import Device, Release, desired_release
from tuf_repository import BUILT, DEVICE, NOW

_RUNNING = b"the engine that runs"


@dataclass
class TrustingDevice:
    """A folder laid out as a device.

    Attributes:
        home: The folder; made and provisioned by `provision`.
        device: Who it is.
        now: Its clock.
    """

    home: Path
    device: Device = field(default_factory=lambda: DEVICE)
    now: datetime = NOW

    @property
    def trust(self) -> Path:
        """What it trusts."""
        return self.home / "trust"

    @property
    def staging(self) -> Path:
        """What it was brought."""
        return self.home / "staging" / "metadata"

    def provision(self, root: bytes) -> TrustingDevice:
        """Start over with a root of trust and something that runs."""
        shutil.rmtree(self.home, ignore_errors=True)
        self.trust.mkdir(parents=True)
        (self.trust / "root.json").write_bytes(root)
        generation = self.home / "generations" / "1"
        generation.mkdir(parents=True)
        (generation / "model.plan").write_bytes(_RUNNING)
        (self.home / "current").symlink_to("generations/1")
        return self

    def push(self, files: Mapping[str, bytes]) -> None:
        """Put exactly these files into the staging folder."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir(parents=True)
        for name, content in files.items():
            (self.staging / name).write_bytes(content)

    def ask(self) -> Release:
        """Ask what to run; raises `TrustError`."""
        return desired_release(self.trust, self.staging, self.device, now=self.now, clock_floor=BUILT)

    def state(self) -> dict[str, str | bytes]:
        """Return all it trusts and runs: every file, link and folder but those that were brought."""
        found: dict[str, str | bytes] = {}
        for folder, folders, files in os.walk(self.home):
            if Path(folder) == self.home:
                folders.remove("staging") if "staging" in folders else None
            for name in [*folders, *files]:
                path = Path(folder) / name
                found[str(path.relative_to(self.home))] = _content(path)
        return found


def _content(path: Path) -> str | bytes:
    if path.is_symlink():
        return str(path.readlink())
    return path.read_bytes() if path.is_file() else "folder"
