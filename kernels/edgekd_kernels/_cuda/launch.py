"""Loads compiled kernels and launches them on torch's current stream."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from edgekd_kernels._cuda.compiler import checked, cubin

ELEMENTS = {torch.float32: "Float32", torch.bfloat16: "BFloat16", torch.float16: "Float16"}
"""Names of dtypes in the sources."""


class Program:
    """A source file with its macros: the kernels in it can be launched.

    Args:
        source: File name in `csrc`.
        definitions: Preprocessor macros.
    """

    def __init__(self, source: str, definitions: Mapping[str, str] | None = None) -> None:
        self.source = source
        self.definitions = tuple(sorted((definitions or {}).items()))

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        threads: int,
        *arguments: Any,
        device: torch.device,
        shared_bytes: int = 0,
    ) -> None:
        """Run a kernel on the device's current stream.

        Args:
            kernel: Name of the kernel.
            grid: Blocks in up to three directions.
            threads: Threads of a block.
            arguments: Tensors and None (pointers), integers (64 bits) and values of `ctypes`, in the kernel's order.
            device: Where.
            shared_bytes: Dynamic shared memory of a block, at most 48 KiB.
        """
        driver = import_module("cuda.bindings.driver")
        with torch.cuda.device(device):
            _require_context(driver, device.index)
            function = _function(self.source, self.definitions, kernel, device.index)
            values = packed(arguments)
            pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
            stream = torch.cuda.current_stream(device).cuda_stream
            size = (*grid, 1, 1)[:3]
            checked(
                driver,
                driver.cuLaunchKernel(
                    function, *size, threads, 1, 1, shared_bytes, stream, ctypes.addressof(pointers), 0
                ),
            )


def packed(arguments: Sequence[Any]) -> list[Any]:
    """Return arguments as values of `ctypes`, as a kernel's parameters have them."""
    return [_packed(argument) for argument in arguments]


def _packed(argument: Any) -> Any:
    if argument is None or isinstance(argument, Tensor):
        return ctypes.c_void_p(None if argument is None else argument.data_ptr())
    return ctypes.c_int64(argument) if isinstance(argument, int) else argument


def _require_context(driver: Any, index: int) -> None:
    """Make the device's context current where torch has not: in a thread of its own that autograd runs backward in."""
    if int(checked(driver, driver.cuCtxGetCurrent())) == 0:
        checked(driver, driver.cuCtxSetCurrent(_context(index)))


@cache
def _context(index: int) -> Any:
    driver = import_module("cuda.bindings.driver")
    return checked(driver, driver.cuDevicePrimaryCtxRetain(checked(driver, driver.cuDeviceGet(index))))


@cache
def _function(source: str, definitions: tuple[tuple[str, str], ...], kernel: str, index: int) -> Any:
    driver = import_module("cuda.bindings.driver")
    return checked(driver, driver.cuModuleGetFunction(_module(source, definitions, index), kernel.encode()))


@cache
def _module(source: str, definitions: tuple[tuple[str, str], ...], index: int) -> Any:
    driver = import_module("cuda.bindings.driver")
    major, minor = torch.cuda.get_device_capability(index)
    return checked(driver, driver.cuModuleLoadData(cubin(source, dict(definitions), 10 * major + minor)))
