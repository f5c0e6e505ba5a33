"""Engines of TensorRT through the board's own `tensorrt` module, and CUDA through its driver.

Types are those of the ONNX (strongly typed) wherever TensorRT knows that. Not run on a Jetson yet: checked against the
names of the true bindings and against a stand-in.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd_agent import durable
from edgekd_agent.engine.running import Engine, Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIB = 1 << 20
_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT64": "int64", "INT32": "int32", "INT8": "int8", "UINT8": "uint8"}


def build(model: Path, plan: Mapping[str, Any], *, out: Path, timing: bytes, timing_out: Path) -> None:
    """Build a plan from an ONNX model.

    Args:
        model: The model.
        plan: The build section of the manifest.
        out: The plan to write.
        timing: Content of a timing cache made under the same key, or nothing.
        timing_out: The timing cache to write.

    Raises:
        Refused: TensorRT does not take the model, or gives no plan.
    """
    import tensorrt as trt

    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, bool(plan["strongly_typed"])))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise Refused("build", "TensorRT does not take the model: " + "; ".join(errors))
    config = _config(trt, builder, plan)
    cache = config.create_timing_cache(timing)
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    content = builder.build_serialized_network(network, config)
    if content is None:
        raise Refused("build", "TensorRT gave no plan; its log says why")
    durable.write_new(out, bytes(content))
    durable.write_new(timing_out, bytes(cache.serialize()))


def load(plan: Path) -> Engine:
    """Open a plan; raises `Refused` when this TensorRT or GPU does not take it."""
    import tensorrt as trt

    runtime = trt.Runtime(_logger(trt))
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise Refused("health", "the plan is of another TensorRT or GPU; it must be built here")
    return TensorRtEngine(trt, runtime, engine)


def version() -> str:
    """Return the version of TensorRT."""
    import tensorrt as trt

    return str(trt.__version__)


class TensorRtEngine:
    """A deserialised plan with its execution context and buffers.

    Args:
        trt: The module.
        runtime: What deserialised it.
        engine: The engine.
    """

    def __init__(self, trt: Any, runtime: Any, engine: Any) -> None:
        self._cuda = Cuda()
        self._kept = (runtime, engine)  # in this order they are freed
        self._engine, self._context = engine, engine.create_execution_context()
        if self._context is None:
            raise Refused("health", "there is no memory for an execution context")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(inputs) != 1:
            raise Refused("health", f"the engine has inputs {', '.join(inputs) or 'none'}; one is needed")
        self.input_name: str = inputs[0]
        self.input_dtype = _dtype(engine, self.input_name)
        self._outputs = {name: _dtype(engine, name) for name in names if name not in inputs}
        self._buffers: dict[str, tuple[int, int]] = {}

    def run(self, inputs: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs for one batch."""
        given = np.ascontiguousarray(inputs, dtype=self.input_dtype)
        if not self._context.set_input_shape(self.input_name, given.shape):
            raise Refused("health", f"the engine refuses inputs of shape {given.shape}")
        self._cuda.to_device(self._bound(self.input_name, given.nbytes), given)
        results = {
            name: np.empty(tuple(self._context.get_tensor_shape(name)), dtype) for name, dtype in self._outputs.items()
        }
        for name, value in results.items():
            self._bound(name, value.nbytes)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise Refused("health", "the engine could not be run; its log says why")
        for name, value in results.items():
            self._cuda.to_host(value, self._buffers[name][0])
        return results

    def device_memory_bytes(self) -> int:
        """Return the memory of the GPU that has been taken since the driver was opened."""
        return self._cuda.taken_bytes()

    def _bound(self, name: str, size_bytes: int) -> int:
        address, held_bytes = self._buffers.get(name, (0, 0))
        if held_bytes < size_bytes:
            address = self._cuda.allocate(size_bytes)
            self._buffers[name] = (address, size_bytes)
        self._context.set_tensor_address(name, address)
        return address


class Cuda:
    """One stream of the first GPU, through the CUDA driver; freed with the process."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise Refused("health", f"there is no CUDA driver: {error}") from error
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._ok(self._cuda.cuInit(0))
        self._ok(self._cuda.cuDeviceGet(ctypes.byref(device), 0))
        self._ok(self._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        self._context = context
        self._ok(self._cuda.cuCtxSetCurrent(context))
        self._ok(self._cuda.cuStreamCreate(ctypes.byref(stream), 0))
        self.stream = int(stream.value or 0)
        self._free_at_first = self._free_bytes()

    def allocate(self, size_bytes: int) -> int:
        """Return the address of new memory on the GPU."""
        address = ctypes.c_uint64()
        self._ok(self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1))))
        return address.value

    def to_device(self, address: int, source: NDArray[Any]) -> None:
        """Copy an array to the GPU, before what follows on the stream."""
        self._ok(self._cuda.cuCtxSetCurrent(self._context))  # each thread has its own
        size = ctypes.c_size_t(source.nbytes)
        data = ctypes.c_void_p(source.ctypes.data)
        self._ok(self._cuda.cuMemcpyHtoDAsync_v2(ctypes.c_uint64(address), data, size, ctypes.c_void_p(self.stream)))

    def to_host(self, target: NDArray[Any], address: int) -> None:
        """Copy from the GPU into an array, and wait for it."""
        size = ctypes.c_size_t(target.nbytes)
        data = ctypes.c_void_p(target.ctypes.data)
        self._ok(self._cuda.cuMemcpyDtoHAsync_v2(data, ctypes.c_uint64(address), size, ctypes.c_void_p(self.stream)))
        self._ok(self._cuda.cuStreamSynchronize(ctypes.c_void_p(self.stream)))

    def taken_bytes(self) -> int:
        """Return how much less memory is free than when this was opened."""
        return max(0, self._free_at_first - self._free_bytes())

    def _free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._ok(self._cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
        return free.value

    def _ok(self, code: int) -> None:
        if code:
            raise Refused("health", f"CUDA error {code}{' (out of memory)' if code == 2 else ''}")


def _dtype(engine: Any, name: str) -> np.dtype[Any]:
    word = engine.get_tensor_dtype(name).name
    if word not in _DTYPES:
        raise Refused("health", f"{name} is {word}; {', '.join(_DTYPES)} are known")
    return np.dtype(_DTYPES[word])


def _config(trt: Any, builder: Any, plan: Mapping[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(plan["workspace_mib"]) * _MIB)
    for name in plan["flags"]:
        if not hasattr(trt.BuilderFlag, name):
            raise Refused("build", f"TensorRT {trt.__version__} has no builder flag {name}")
        config.set_flag(getattr(trt.BuilderFlag, name))
    shapes = plan["opt_profile"]
    profile = builder.create_optimization_profile()
    profile.set_shape(shapes["input_name"], *(tuple(shapes[name]) for name in ("min", "opt", "max")))
    config.add_optimization_profile(profile)
    return config


def _network_flags(trt: Any, is_strong: bool) -> int:
    creation = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(creation.EXPLICIT_BATCH) if hasattr(creation, "EXPLICIT_BATCH") else 0
    if not is_strong:
        return flags
    if hasattr(creation, "STRONGLY_TYPED"):
        return flags | 1 << int(creation.STRONGLY_TYPED)
    raise Refused("build", f"TensorRT {trt.__version__} cannot be bound to the types in the model")


def _logger(trt: Any) -> Any:
    def initialise(self: Any) -> None:
        trt.ILogger.__init__(self)

    def receive(self: Any, severity: Any, message: str) -> None:
        sys.stderr.write(f"{getattr(severity, 'name', severity)} | {message}\n")

    return type("Logger", (trt.ILogger,), {"__init__": initialise, "log": receive})()
