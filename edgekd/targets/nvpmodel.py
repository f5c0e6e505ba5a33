"""Read what a Jetson says about its power modes: `nvpmodel -q` and `/etc/nvpmodel.conf`.

Numbers of modes differ between modules and releases, so a mode is known by its name. In the file clocks are in hertz;
0, -1 and absurdly high values mean "as fast as it goes"; the bits of `TPC_PG_MASK` switch clusters of two SMs off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgekd.core.errors import DataError

_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=([^\s>]+)\s*>")
_SETTING = re.compile(r"^(GPU|EMC|TPC_POWER_GATING)\s+(MAX_FREQ|TPC_PG_MASK)\s+(-?(?:0[xX][0-9a-fA-F]+|\d+))")
_UNLIMITED_MHZ = 5000.0
_SLOWEST_MHZ = 50.0


@dataclass(frozen=True)
class ConfMode:
    """One mode of `/etc/nvpmodel.conf`.

    Attributes:
        name: Its name.
        id: Number for `nvpmodel -m` on this board.
        gpu_mhz: Highest GPU clock; `None` where it is not limited.
        emc_mhz: Highest memory clock; `None` where it is not limited.
        gated_tpcs: Texture clusters switched off; `None` where the file does not say.
    """

    name: str
    id: int
    gpu_mhz: float | None
    emc_mhz: float | None
    gated_tpcs: int | None


def parse_nvpmodel_query(text: str) -> tuple[str, int | None]:
    """Read the answer of `nvpmodel -q`.

    Args:
        text: Such as `"NV Power Mode: 15W"` and the number on the next line; warnings before it do not matter.

    Returns:
        Name of the mode and its number, if there is one.

    Raises:
        DataError: There is no mode in it.
    """
    lines = [line.strip() for line in text.splitlines()]
    for position, line in enumerate(lines):
        label, colon, name = line.partition(":")
        if colon and label.strip().lower() in ("nv power mode", "power mode") and name.strip():
            number = next((int(rest) for rest in lines[position + 1 :] if rest.isdigit()), None)
            return name.strip().removeprefix("MODE_"), number
    raise DataError(f"no power mode in the answer of nvpmodel -q: {' '.join(lines)[:80]!r}")


def parse_nvpmodel_conf(text: str) -> tuple[ConfMode, ...]:
    """Read `/etc/nvpmodel.conf`.

    Args:
        text: The file.

    Returns:
        Its modes in their order.

    Raises:
        DataError: There is none, a name is there twice, or a clock is none.
    """
    parts = _MODE.split("\n".join(line.partition("#")[0] for line in text.splitlines()))
    modes = tuple(
        _mode(int(number), name, body) for number, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    )
    if not modes:
        raise DataError("no POWER_MODEL in this nvpmodel.conf")
    names = [mode.name for mode in modes]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"nvpmodel.conf has the power mode {twice[0]!r} twice")
    return modes


def _mode(number: int, name: str, body: str) -> ConfMode:
    found: dict[tuple[str, str], int] = {}
    for line in body.splitlines():
        match = _SETTING.match(line.strip())
        if match is not None:
            found[(match[1], match[2])] = int(match[3], 0)
    mask = found.get(("TPC_POWER_GATING", "TPC_PG_MASK"))
    short = name.removeprefix("MODE_")
    return ConfMode(
        name=short,
        id=number,
        gpu_mhz=_mhz(found.get(("GPU", "MAX_FREQ")), short, "GPU"),
        emc_mhz=_mhz(found.get(("EMC", "MAX_FREQ")), short, "EMC"),
        gated_tpcs=None if mask is None or mask < 0 else mask.bit_count(),
    )


def _mhz(hertz: int | None, mode: str, what: str) -> float | None:
    if hertz is None or hertz <= 0 or hertz / 1e6 > _UNLIMITED_MHZ:
        return None
    if hertz / 1e6 < _SLOWEST_MHZ:
        raise DataError(f"nvpmodel.conf, power mode {mode}: {what} MAX_FREQ {hertz} is no clock in hertz")
    return hertz / 1e6
