"""Memory on the GPU behind one small protocol, served by whichever CUDA binding is installed.

Not run on hardware yet: the names and signatures used are those of cuda-python 13.0 and pycuda 2026.1.
"""

from __future__ import annotations

import ctypes
import importlib
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgekd.core.errors import BuildError, PreconditionError


class DeviceMemory(Protocol):
    """Buffers, page-locked host arrays and one stream on the current GPU; frees everything in `release`."""

    @property
    def name(self) -> str:
        """Binding that serves it."""
        ...

    @property
    def stream(self) -> int:
        """Handle of its CUDA stream."""
        ...

    def allocate(self, size_bytes: int) -> int:
        """Return the address of a new buffer."""
        ...

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a new page-locked array, which the GPU copies from and to without a detour; gone after `release`."""
        ...

    def captured(self, work: Callable[[], None]) -> Callable[[], None] | None:
        """Record what `work` puts on the stream as a CUDA graph, in place of the one recorded before.

        Args:
            work: Called once; nothing of it is executed.

        Returns:
            What puts all of it on the stream by one call; None when the binding has no graphs.

        Raises:
            BuildError: Something in it cannot be recorded.
        """
        ...

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy a C-ordered host array to the device, on the stream."""
        ...

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Copy from the device into a C-ordered host array, on the stream."""
        ...

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        ...

    def release(self) -> None:
        """Free all buffers, graphs and the stream."""
        ...


class CudaPythonMemory:
    """Device memory through cuda-python's runtime module.

    Args:
        runtime: `cuda.bindings.runtime`.
    """

    name = "cuda-python"

    def __init__(self, runtime: ModuleType) -> None:
        self._runtime = runtime
        self._buffers: list[Any] = []
        self._pages: list[Any] = []
        self._graphs: list[Any] = []
        self._stream = self._call("cudaStreamCreate")

    @property
    def stream(self) -> int:
        """Handle of its CUDA stream."""
        return int(self._stream)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of a new buffer."""
        buffer = self._call("cudaMalloc", size_bytes)
        self._buffers.append(buffer)
        return int(buffer)

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a new page-locked array."""
        size_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        address = self._call("cudaHostAlloc", size_bytes, 0)
        self._pages.append(address)
        content = (ctypes.c_byte * size_bytes).from_address(int(address))
        array: NDArray[Any] = np.frombuffer(content, np.dtype(dtype)).reshape(shape)  # type: ignore[call-overload]
        return array

    def captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts on the stream; returns what replays it."""
        self._destroy("cudaGraphExecDestroy", self._graphs)
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BuildError:
            self._runtime.cudaStreamEndCapture(self._stream)  # what was recorded is worthless, its status too
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        executable = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        self._graphs.append(executable)
        return lambda: self._call("cudaGraphLaunch", executable, self._stream)

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy a C-ordered host array to the device, on the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, self._stream)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Copy from the device into a C-ordered host array, on the stream."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        self._call("cudaStreamSynchronize", self._stream)

    def release(self) -> None:
        """Free all buffers, graphs and the stream."""
        self._destroy("cudaGraphExecDestroy", self._graphs)
        self._destroy("cudaFree", self._buffers)
        self._destroy("cudaFreeHost", self._pages)
        self._call("cudaStreamDestroy", self._stream)

    def _destroy(self, function: str, owned: list[Any]) -> None:
        while owned:
            self._call(function, owned.pop())

    def _call(self, function: str, *arguments: object) -> Any:
        status, *results = getattr(self._runtime, function)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            _, name = self._runtime.cudaGetErrorName(status)
            raise BuildError(f"{function} failed: {name.decode()}")
        return results[0] if results else None


class PycudaMemory:
    """Device memory through pycuda, in the GPU's primary context.

    Args:
        driver: `pycuda.driver`, with a current context.
    """

    name = "pycuda"

    def __init__(self, driver: ModuleType) -> None:
        self._driver = driver
        self._buffers: dict[int, Any] = {}
        self._stream = driver.Stream()

    @property
    def stream(self) -> int:
        """Handle of its CUDA stream."""
        return int(self._stream.handle)

    def allocate(self, size_bytes: int) -> int:
        """Return the address of a new buffer."""
        buffer = self._driver.mem_alloc(size_bytes)
        self._buffers[int(buffer)] = buffer
        return int(buffer)

    def host(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return a new page-locked array, freed with its last reference."""
        array: NDArray[Any] = self._driver.pagelocked_empty(shape, np.dtype(dtype))
        return array

    def captured(self, work: Callable[[], None]) -> None:
        """Return None: pycuda has no CUDA graphs."""

    def upload(self, address: int, array: NDArray[np.generic]) -> None:
        """Copy a C-ordered host array to the device, on the stream."""
        self._driver.memcpy_htod_async(address, array, self._stream)

    def download(self, array: NDArray[np.generic], address: int) -> None:
        """Copy from the device into a C-ordered host array, on the stream."""
        self._driver.memcpy_dtoh_async(array, address, self._stream)

    def synchronize(self) -> None:
        """Wait until everything on the stream is done."""
        self._stream.synchronize()

    def release(self) -> None:
        """Free all buffers."""
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()


def device_memory_reason() -> str | None:
    """Return None when a CUDA binding can be imported, else why not."""
    problems = []
    for name in ("cuda.bindings.runtime", "pycuda.driver"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            problems.append(f"{name}: {error}")
        else:
            return None
    return "running engines needs cuda-python or pycuda: pip install 'edgekd[trt]' (" + "; ".join(problems) + ")"


def open_device_memory() -> DeviceMemory:
    """Open device memory with cuda-python, or else pycuda.

    Raises:
        PreconditionError: Neither is installed and working.
    """
    reason = device_memory_reason()
    if reason is not None:
        raise PreconditionError(reason)
    try:
        return CudaPythonMemory(importlib.import_module("cuda.bindings.runtime"))
    except ImportError:
        importlib.import_module("pycuda.autoprimaryctx")
        return PycudaMemory(importlib.import_module("pycuda.driver"))
