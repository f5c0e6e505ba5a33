"""How it went on one device, and what a command over many devices ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from edgekd.core.errors import ExitCode
from edgekd.ship.transport.answers import Model

Outcome = Literal[
    "installed",
    "up-to-date",
    "rolled-back",
    "unlocked",
    "provisioned",
    "failed",
    "reverted",
    "refused",
    "timed-out",
    "silent",
    "offline",
    "locked",
    "interrupted",
    "not-started",
]
DONE: tuple[Outcome, ...] = ("installed", "up-to-date", "rolled-back", "unlocked", "provisioned")
FAILED: tuple[Outcome, ...] = ("failed", "reverted", "refused", "timed-out", "silent")
QUEUED: tuple[Outcome, ...] = ("offline", "silent", "timed-out")


@dataclass(frozen=True)
class DeviceResult:
    """How it went on one device.

    Attributes:
        device_id: The device.
        group: Its group.
        outcome: `"offline"`: it did not answer, which is no failure. `"silent"`: it stopped answering after an install
            had begun, which is. `"reverted"`: it went back by itself after it had said that it was done.
        reason: Why, for people.
        before: What it ran; None when nothing or not known.
        after: What it runs now, as far as known.
        seconds: How long it took.
        exit_code: What it counts as in the exit code of the command.
        wave: Wave that it belonged to.
    """

    device_id: str
    group: str
    outcome: Outcome
    reason: str = ""
    before: Model | None = None
    after: Model | None = None
    seconds: float = 0.0
    exit_code: int = 0
    wave: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the device is as it should be."""
        return self.outcome in DONE

    @property
    def is_failed(self) -> bool:
        """Whether it counts against the halt rules."""
        return self.outcome in FAILED


def exit_code_of(results: Sequence[DeviceResult]) -> ExitCode:
    """Return what a command ends with.

    0 when every device is done. Where nothing failed and some did not answer, 4. Where no device is done and all
    failures share a code, that code. Else 1: partial failure.
    """
    if all(result.is_done for result in results):
        return ExitCode.DONE
    troubled = [result for result in results if not result.is_done and result.outcome != "not-started"]
    if troubled and all(result.outcome == "offline" for result in troubled):
        return ExitCode.TARGET if not _is_cut_short(results) else ExitCode.FAILED
    codes = {result.exit_code for result in troubled}
    is_total = not any(result.is_done and result.outcome != "up-to-date" for result in results)
    if is_total and len(codes) == 1:
        return ExitCode(codes.pop())
    return ExitCode.FAILED


def _is_cut_short(results: Sequence[DeviceResult]) -> bool:
    return any(result.outcome == "not-started" for result in results)
