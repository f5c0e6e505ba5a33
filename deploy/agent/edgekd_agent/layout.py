"""Where things lie below the agent's root folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DEFAULT_ROOT = Path("/var/lib/edgekd")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Layout:
    """The folders and files of one device.

    Attributes:
        root: Everything lies below it.
    """

    root: Path

    @property
    def device(self) -> Path:
        """Who the device is, written at provisioning."""
        return self.root / "device.json"

    @property
    def settings(self) -> Path:
        """How this device builds, confirms and serves; may be absent."""
        return self.root / "agent.json"

    @property
    def trust(self) -> Path:
        """Metadata the device trusts; no transport writes there."""
        return self.root / "trust"

    @property
    def journal(self) -> Path:
        """What the agent is doing and has done."""
        return self.root / "journal"

    @property
    def status(self) -> Path:
        """Derived from the journal, for quick readers."""
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        """Held by the process that changes anything."""
        return self.root / "lock"

    @property
    def operator(self) -> Path:
        """Which operator has reserved the device."""
        return self.root / "operator.json"

    @property
    def bad(self) -> Path:
        """Bundles that failed here, with the reason."""
        return self.root / "bad.json"

    @property
    def heartbeat(self) -> Path:
        """Last sign of life of what serves."""
        return self.root / "heartbeat.json"

    @property
    def facts(self) -> Path:
        """What the device was found to be, for one start of the system."""
        return self.root / "facts.json"

    @property
    def logs(self) -> Path:
        """Output of builders, checkers and detached installs."""
        return self.root / "logs"

    @property
    def blobs(self) -> Path:
        """Content by digest."""
        return self.root / "blobs" / "sha256"

    @property
    def metadata(self) -> Path:
        """Small signed files, pushed by the host."""
        return self.root / "staging" / "metadata"

    @property
    def parts(self) -> Path:
        """Blobs on their way, pushed by the host."""
        return self.root / "staging" / "blobs"

    @property
    def builds(self) -> Path:
        """Engines by key."""
        return self.root / "builds"

    @property
    def work(self) -> Path:
        """Working folder of the one builder or checker."""
        return self.root / "work"

    @property
    def timing(self) -> Path:
        """Timing caches of TensorRT by key."""
        return self.root / "timing"

    @property
    def generations(self) -> Path:
        """Installed releases by number."""
        return self.root / "generations"

    @property
    def current(self) -> Path:
        """Link to the generation that runs."""
        return self.root / "current"

    @property
    def previous(self) -> Path:
        """Link to the generation to go back to."""
        return self.root / "previous"

    def blob(self, sha256: str) -> Path:
        """Return where content of that digest lies."""
        return self.blobs / checked_digest(sha256)[:2] / sha256

    def part(self, sha256: str) -> Path:
        """Return where content of that digest arrives."""
        return self.parts / f"{checked_digest(sha256)}.part"

    def build(self, key: str) -> Path:
        """Return the folder of an engine."""
        return self.builds / checked_digest(key)

    def timing_cache(self, key: str) -> Path:
        """Return the file of kernel timings of one kind of builder."""
        return self.timing / f"{checked_digest(key)}.cache"

    def generation(self, number: int) -> Path:
        """Return the folder of a generation."""
        return self.generations / str(number)


def checked_digest(text: str) -> str:
    """Return `text` if it is a SHA-256 in hexadecimal; nothing else ever becomes part of a path.

    Raises:
        ValueError: It is none.
    """
    if not _SHA256.fullmatch(text):
        raise ValueError(f"not a SHA-256 digest: {text!r}")
    return text
