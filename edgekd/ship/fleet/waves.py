"""Who gets a release when: the canaries, then growing shares of the group, in the order of `fleet.yaml`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.ship.fleet.inventory import CANARY, Device, Halt


@dataclass(frozen=True)
class Wave:
    """Devices that are worked on together.

    Attributes:
        name: `canary`, or the share of the group that has the release after it.
        devices: Its members; those of earlier waves are not among them.
        note: What the user should know about how they were chosen.
    """

    name: str
    devices: tuple[Device, ...]
    note: str = ""


def planned_waves(names: Sequence[str], devices: Sequence[Device]) -> tuple[Wave, ...]:
    """Divide devices into waves.

    Args:
        names: `canary` and growing percentages, the last `100%`.
        devices: Devices of one group.

    Returns:
        Waves that hold every device once; waves that would be empty are left out.
    """
    waves: list[Wave] = []
    left = list(devices)
    for name in names:
        wave = _canaries(left) if name == CANARY else Wave(name, tuple(left[: _more(name, len(devices), len(left))]))
        if wave.devices:
            waves.append(wave)
            left = [device for device in left if device not in wave.devices]
    return tuple(waves)


def halt_reason(rules: Halt, *, failed_in_all: int, failed_in_wave: int, wave_size: int) -> str:
    """Say why a roll-out must stop; empty when it may go on."""
    if failed_in_all > rules.max_failures:
        return f"{failed_in_all} devices failed, at most {rules.max_failures} may (max_failures)"
    share = failed_in_wave / wave_size if wave_size else 0.0
    if share > rules.max_failed_share:
        return (
            f"{failed_in_wave} of the {wave_size} devices of the wave failed, at most a share of "
            f"{rules.max_failed_share:g} may (max_failed_share)"
        )
    return ""


def _canaries(devices: Sequence[Device]) -> Wave:
    marked = tuple(device for device in devices if device.is_canary)
    if marked or not devices:
        return Wave(CANARY, marked)
    return Wave(CANARY, (devices[0],), "no device is marked as canary: the first of the group is taken")


def _more(share: str, total: int, left: int) -> int:
    """Return how many more devices a share of all needs, rounded up."""
    wanted = math.ceil(total * int(share.rstrip("%")) / 100)
    return max(0, wanted - (total - left))
