"""The device side of edgekd: standard library only, so that it runs on a board without pip.

This package owns the bundle format. `edgekd.ship` writes bundles with these classes; the device reads them with the
same ones, so that both ends cannot drift apart.
"""

from edgekd_agent.bundle import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    Artifact,
    BuildPlan,
    BundleProblem,
    Health,
    Manifest,
    ManifestError,
    OptProfile,
    Provenance,
    TargetSelector,
    manifest_bytes,
    media_type_of,
)
from edgekd_agent.integrity import Verification, verify
from edgekd_agent.reader import parse_manifest, read_manifest

__version__ = "0.1.0"
BUILT = "2026-11-01T00:00:00Z"
"""A time that has certainly passed: this version was not there before it."""

__all__ = [
    "Artifact",
    "BUILT",
    "BuildPlan",
    "BundleProblem",
    "Health",
    "MANIFEST_NAME",
    "Manifest",
    "ManifestError",
    "OptProfile",
    "Provenance",
    "SCHEMA_VERSION",
    "TargetSelector",
    "Verification",
    "manifest_bytes",
    "media_type_of",
    "parse_manifest",
    "read_manifest",
    "verify",
]
