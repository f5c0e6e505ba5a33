"""Asks the NVIDIA driver which GPUs are there, through its C library and no Python package.

Packages that list devices or providers say what they were compiled for; only the driver knows what is present.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR in cuda.h


@dataclass(frozen=True)
class Gpus:
    """What the driver told.

    Attributes:
        sms: Compute capability of each GPU as an integer (`86`).
        reason: Why there is none; empty when there is one.
    """

    sms: tuple[int, ...]
    reason: str = ""


def visible_gpus(load: Callable[[str], Any] = ctypes.CDLL) -> Gpus:
    """Ask the driver for the GPUs of this machine.

    Args:
        load: Opens a shared library by name.

    Returns:
        Their compute capabilities, or the reason why there are none.
    """
    try:
        driver = load("libcuda.so.1")
    except OSError as error:
        return Gpus((), f"no NVIDIA driver: {error}")
    status = driver.cuInit(0)
    if status != 0:
        return Gpus((), f"the NVIDIA driver does not start: cuInit returned {status}")
    count = ctypes.c_int()
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return Gpus((), f"the NVIDIA driver lists no GPU (cuDeviceGetCount returned {status})")
    return Gpus(tuple(_compute_capability(driver, index) for index in range(count.value)))


def _compute_capability(driver: Any, index: int) -> int:
    device = ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    return 10 * _attribute(driver, _MAJOR, device) + _attribute(driver, _MINOR, device)


def _attribute(driver: Any, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int()
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    return value.value
