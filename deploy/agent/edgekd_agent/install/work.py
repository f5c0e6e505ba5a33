"""What an install needs done by others: engines built and candidates checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgekd_agent.bundle import Artifact, Manifest
from edgekd_agent.layout import Layout


@dataclass(frozen=True)
class Candidate:
    """A release on its way to become a generation; its blobs are in the store.

    Attributes:
        layout: Where its files lie.
        content: The bytes of `bundle.json`.
        bundle_sha256: Their digest.
        manifest: What they say.
        engine_key: Key of the engine it needs on this device.
        artifacts: The files of the bundle that this device needs.
    """

    layout: Layout
    content: bytes
    bundle_sha256: str
    manifest: Manifest
    engine_key: str
    artifacts: tuple[Artifact, ...]

    def file(self, path: str) -> Path:
        """Return where a file of the bundle lies in the store."""
        return self.layout.blob(next(item.sha256 for item in self.artifacts if item.path == path))


class Workshop(Protocol):
    """Builds and checks; the real one does both in limited child processes."""

    def engine_key(self, manifest: Manifest) -> str:
        """Return the key of the engine that this device needs for a manifest."""

    def build(self, candidate: Candidate) -> None:
        """See to it that `builds/<engine key>` holds a finished build; raises `AgentError`."""

    def check(self, candidate: Candidate, *, is_timed: bool) -> Mapping[str, Any]:
        """Return what was measured of a built candidate; raises `AgentError` when it may not serve."""


def wanted_artifacts(manifest: Manifest, engine_key: str) -> tuple[Artifact, ...]:
    """Return the files of a bundle that a device needs: engines and timing caches of other devices are not."""
    return tuple(item for item in manifest.artifacts if _is_wanted(item, engine_key))


def prebuilt_engine(manifest: Manifest, engine_key: str) -> Artifact | None:
    """Return the signed engine for exactly this device, if the bundle has one."""
    path = f"engines/{engine_key}/model.plan"
    return next((item for item in manifest.artifacts if item.path == path), None)


def _is_wanted(artifact: Artifact, engine_key: str) -> bool:
    parts = Path(artifact.path).parts
    return not (len(parts) == 3 and parts[0] == "engines" and parts[1] != engine_key)
