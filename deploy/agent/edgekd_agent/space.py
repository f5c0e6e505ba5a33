"""Is there room for an install: for what must still arrive, for building, and for what stays free. Asked first."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from edgekd_agent import staging
from edgekd_agent.bundle import Manifest
from edgekd_agent.device import Site
from edgekd_agent.errors import AgentError
from edgekd_agent.store import Missing

_MIB = 1 << 20
_BUILD_FLOOR_BYTES = 8 * _MIB
_ENGINE_PER_MODEL = 2
"""An engine is about as large as its model; the builder writes it once more into its working folder."""


@dataclass(frozen=True)
class Space:
    """Room on the device's disk.

    Attributes:
        needed_bytes: What an install writes at most, and what must stay free.
        free_bytes: What is free.
    """

    needed_bytes: int
    free_bytes: int

    @property
    def is_enough(self) -> bool:
        """Whether the install fits."""
        return self.needed_bytes <= self.free_bytes


def free_bytes(site: Site) -> int:
    """Return what the agent may still write below its root."""
    return shutil.disk_usage(site.layout.root).free


def measured(site: Site, manifest: Manifest, missing: tuple[Missing, ...]) -> Space:
    """Compare what an install needs with what is free."""
    model = next(item for item in manifest.artifacts if item.path == manifest.build.model)
    is_compiled = manifest.build.backend != "onnxruntime"
    building = _BUILD_FLOOR_BYTES + (_ENGINE_PER_MODEL * model.size_bytes if is_compiled else 0)
    return Space(_blob_bytes(site, missing) + building + site.settings.reserve_mib * _MIB, free_bytes(site))


def require(space: Space) -> None:
    """Raise `AgentError` when an install does not fit."""
    if not space.is_enough:
        words = f"{space.needed_bytes} bytes are needed (blobs, build, reserve), {space.free_bytes} are free"
        raise AgentError("space", f"{words}; free some, or try: gc")


def _blob_bytes(site: Site, missing: tuple[Missing, ...]) -> int:
    """Return what blobs still take of this disk: what must arrive and one copy, for each part goes once it is kept."""
    sizes = [blob.size_bytes for blob in missing]
    if staging.is_elsewhere(site.layout):
        return sum(sizes)
    return sum(_left_bytes(site, blob) for blob in missing) + max(sizes, default=0)


def _left_bytes(site: Site, blob: Missing) -> int:
    return max(0, blob.size_bytes - staging.allocated_bytes(site.layout.part(blob.sha256)))
