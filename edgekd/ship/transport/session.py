"""What a fleet needs of a device, as narrow as it can be: run the agent there, leave small files, leave blobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

BLOCK_BYTES = 8 << 20
"""Length of the blocks whose digests a device names, so that a push goes on where it stopped."""


@dataclass(frozen=True)
class Answer:
    """What the agent said.

    Attributes:
        exit_code: What it ended with.
        document: Its JSON document; empty when it printed none.
        complaint: The end of what it wrote to stderr.
    """

    exit_code: int
    document: Mapping[str, Any]
    complaint: str = ""


@dataclass(frozen=True)
class Need:
    """A blob that the device lacks.

    Attributes:
        sha256: Its digest.
        size_bytes: Its length.
        blocks: Digest of each complete block of `BLOCK_BYTES` that is there already.
    """

    sha256: str
    size_bytes: int
    blocks: tuple[str, ...] = ()


class Session(Protocol):
    """An open way to one device; what it does is done again after a drop."""

    async def agent(self, *words: str) -> Answer:
        """Run a command of the agent.

        Args:
            words: The command and its arguments; `--root` and `--json` are added.

        Returns:
            What it said, whatever its exit code.

        Raises:
            TargetError: There is no agent, or it printed something else than one JSON document.
            Unreachable: The device is gone for longer than it is waited for.
        """
        ...

    async def put_metadata(self, files: Mapping[str, Path]) -> None:
        """Leave metadata files in the device's staging, each whole or not at all.

        Args:
            files: File here by its name there.

        Raises:
            TargetError: The device refuses a file.
            Unreachable: See `agent`.
        """
        ...

    async def push(self, blob: Path, need: Need, report: Callable[[int, int], None]) -> None:
        """Leave a blob in the device's staging, going on where an earlier push stopped.

        Args:
            blob: The file here.
            need: What the device said it lacks.
            report: Told bytes there and bytes in all.

        Raises:
            TargetError: The device refuses it, for instance because its disk is full.
            StorageError: The blob here is not what its name says.
            Unreachable: See `agent`.
        """
        ...


class Transport(Protocol):
    """Opens sessions."""

    def session(self, address: str, note: Callable[[str], None]) -> AbstractAsyncContextManager[Session]:
        """Open a session for the length of a block.

        Args:
            address: Where the device answers.
            note: Told when the connection is lost and found.

        Raises:
            Unreachable: There is no answer.
            TargetError: The host key is not the trusted one, or the login is refused.
        """
        ...
