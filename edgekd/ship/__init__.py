"""From artefacts to a bundle folder that a device can check: packing, looking inside, verifying."""

from edgekd.ship.archive import ARCHIVE_SUFFIX, opened_bundle, write_archive
from edgekd.ship.bundle import inspect, pack, verify
from edgekd.ship.golden import GOLDEN_PATH, MAX_GOLDEN_BYTES, Golden, read_golden
from edgekd.ship.plan import (
    UNKNOWN_SHA256,
    BundlePlan,
    TargetFacts,
    build_plan,
    health_check,
    member_path,
    provenance,
    target_selector,
    usual_tolerance,
)
from edgekd.ship.repack import DeviceFile, read_facts, repack

__all__ = [
    "ARCHIVE_SUFFIX",
    "BundlePlan",
    "DeviceFile",
    "GOLDEN_PATH",
    "Golden",
    "MAX_GOLDEN_BYTES",
    "TargetFacts",
    "UNKNOWN_SHA256",
    "build_plan",
    "health_check",
    "inspect",
    "member_path",
    "opened_bundle",
    "pack",
    "provenance",
    "read_facts",
    "read_golden",
    "repack",
    "target_selector",
    "usual_tolerance",
    "verify",
    "write_archive",
]
