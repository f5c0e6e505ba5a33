"""Read what CUDA says about a GPU: the text of the `deviceQuery` sample, or the pairs that the probe prints.

On a Jetson, the SMs and the clock are those of the power mode it is in, and memory clock and bus width mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgekd.core.errors import DataError

_DEVICE = re.compile(r'^\s*Device\s+\d+:\s*"([^"]*)"', re.MULTILINE)


@dataclass(frozen=True)
class GpuFacts:
    """What CUDA reports of one GPU.

    Attributes:
        name: Its name.
        sm: Compute capability times ten.
        sms: Streaming multiprocessors that are on.
        clock_mhz: Highest GPU clock.
        memory_gb: Its memory in GiB, what the system keeps back left out.
        l2_mb: L2 cache in MiB.
        is_integrated: It shares the host's memory.
        bandwidth_gb_s: Memory bandwidth by clock and bus width; `None` on an integrated GPU, where they mean nothing.
    """

    name: str
    sm: int
    sms: int
    clock_mhz: float
    memory_gb: float
    l2_mb: float
    is_integrated: bool
    bandwidth_gb_s: float | None


def parse_device_query(text: str) -> GpuFacts:
    """Read the output of `deviceQuery`.

    Args:
        text: All of it, of exactly one device.

    Returns:
        The facts.

    Raises:
        DataError: It is not that output, has several devices, or lacks a figure (all are named).
    """
    names = _DEVICE.findall(text)
    if len(names) != 1:
        raise DataError(f"deviceQuery text describes {len(names)} devices, exactly one is needed")
    patterns: Mapping[str, str] = {
        "compute capability": r"Capability Major/Minor version number:\s*(\d+\.\d+)",
        "multiprocessors": r"\(\s*(\d+)\s*\)\s*Multiprocessors",
        "GPU clock": r"GPU (?:Max )?Clock rate:\s*(\d+(?:\.\d+)?)\s*MHz",
        "memory": r"Total amount of global memory:.*\((\d+) bytes\)",
        "L2 cache": r"L2 Cache Size:\s*(\d+)\s*bytes",
    }
    found = {what: match[1] for what, pattern in patterns.items() if (match := re.search(pattern, text))}
    missing = [what for what in patterns if what not in found]
    if missing:
        raise DataError(f"deviceQuery text has no {', no '.join(missing)}")
    shared = re.search(r"Integrated GPU sharing Host Memory:\s*(Yes|No)", text)
    return _facts(
        {
            "name": names[0],
            "sm": found["compute capability"].replace(".", ""),
            "sms": found["multiprocessors"],
            "clock_khz": str(float(found["GPU clock"]) * 1e3),
            "memory_bytes": found["memory"],
            "l2_bytes": found["L2 cache"],
            "integrated": "1" if shared is None or shared[1] == "Yes" else "0",
            "memory_khz": str(float(_first(r"Memory Clock rate:\s*(\d+(?:\.\d+)?)\s*Mhz", text) or 0) * 1e3),
            "bus_bits": _first(r"Memory Bus Width:\s*(\d+)-bit", text) or "0",
        }
    )


def parse_pairs(text: str) -> GpuFacts:
    """Read the `key=value` lines that the probe's program prints; `DataError` when one is missing or no number."""
    pairs = dict(line.strip().split("=", 1) for line in text.splitlines() if "=" in line)
    wanted = ("name", "sm", "sms", "clock_khz", "memory_bytes", "l2_bytes", "integrated", "memory_khz", "bus_bits")
    missing = [key for key in wanted if key not in pairs]
    if missing:
        raise DataError(f"the GPU of the device does not say its {', '.join(missing)}")
    return _facts(pairs)


def _facts(pairs: Mapping[str, str]) -> GpuFacts:
    def number(key: str, kind: Callable[[str], float]) -> float:
        try:
            return kind(pairs[key])
        except ValueError as error:
            raise DataError(f"{key} of the GPU is {pairs[key]!r}, not a number") from error

    is_integrated = bool(number("integrated", int))
    bandwidth = 2 * number("memory_khz", float) * 1e3 * number("bus_bits", int) / 8 / 1e9
    return GpuFacts(
        name=pairs["name"],
        sm=int(number("sm", int)),
        sms=int(number("sms", int)),
        clock_mhz=number("clock_khz", float) / 1e3,
        memory_gb=number("memory_bytes", int) / 2**30,
        l2_mb=number("l2_bytes", int) / 2**20,
        is_integrated=is_integrated,
        bandwidth_gb_s=None if is_integrated or bandwidth == 0 else bandwidth,
    )


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return None if match is None else match[1]
