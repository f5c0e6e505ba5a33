"""A repository with a bundle, and a device that was provisioned from it."""

import dataclasses
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from edgekd_agent.trust import Device, Release, desired_release, trusted_root_version

from edgekd.ship import pack
from edgekd.ship.trust import Initialised, init, outbox

START = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
DEVICE = Device("robot-7", "canary", {"device": "jetson-agx-orin-64gb"})


@dataclasses.dataclass
class Field:
    """One operator's repository and one device."""

    repo: Path
    keys: Path
    trust: Path
    staging: Path
    made: Initialised
    device: Device

    def push(self, group: str | None = None) -> None:
        """Bring the device what it needs, as a transport would."""
        box = outbox(self.repo, group or self.device.group, root_version=trusted_root_version(self.trust))
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        for name, path in box.metadata.items():
            shutil.copyfile(path, self.staging / name)

    def release(self, after: timedelta = timedelta()) -> Release:
        """Ask the device what it should run."""
        return desired_release(self.trust, self.staging, self.device, now=START + after, clock_floor=START)


@pytest.fixture
def field(tmp_path) -> Field:
    repo, keys = tmp_path / "fleet-repo", tmp_path / "keys"
    made = init(repo, keys, ["canary", "fleet"], now=START)
    trust = tmp_path / "device" / "trust"
    trust.mkdir(parents=True)
    shutil.copyfile(made.root, trust / "root.json")
    return Field(repo, keys, trust, tmp_path / "device" / "staging", made, DEVICE)


@pytest.fixture
def bundle(tmp_path, sources, golden, plan) -> Path:
    folder = tmp_path / "bundle"
    pack(folder, name="digits-student", version=1, files=sources, golden=golden, plan=plan)
    return folder
