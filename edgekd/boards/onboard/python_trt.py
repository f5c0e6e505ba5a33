"""The part of `trtexec` that jobs use, on the `tensorrt` module of the board's Python, where there is no trtexec.

The same options and files. Times are those of CUDA events around each enqueue, without CUDA graphs. What a TensorRT can
do is asked of its enums, never of its version. Not run on hardware yet: checked against the names of the true bindings.
"""

from __future__ import annotations

import ctypes
import json
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

_LEAST_RUNS = 10
_VALUE_BYTES = 8
_LEVELS = {"ampere+": "AMPERE_PLUS", "sameComputeCapability": "SAME_COMPUTE_CAPABILITY"}


def trtexec(arguments: List[str]) -> int:
    """Build a plan (`--onnx`, `--saveEngine`) or run one (`--loadEngine`); returns the exit status."""
    import tensorrt as trt

    words = dict(word.lstrip("-").partition("=")[::2] for word in arguments)
    _say("TensorRT %s, Python" % trt.__version__)
    logger = _logger(trt)
    if "onnx" in words:
        _build(trt, logger, words)
    else:
        _run(trt, logger, words)
    _say("PASSED")
    return 0


def _build(trt: Any, logger: Any, words: Dict[str, str]) -> None:
    builder = trt.Builder(logger)
    is_dla = "useDLACore" in words
    flags, is_strong = _network_flags(trt, is_dla)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(words["onnx"]):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise SystemExit("the model was refused: " + "; ".join(errors))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for word, flag in (("fp16", "FP16"), ("int8", "INT8")):
        if word in words and not is_strong:
            config.set_flag(getattr(trt.BuilderFlag, flag))
    if is_dla:
        _use_dla(trt, builder, config, words)
    if "memPoolSize" in words:
        size = int(words["memPoolSize"].partition(":")[2]) << 20
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    _tune(trt, config, words)
    if "optShapes" in words:
        profile = builder.create_optimization_profile()
        shapes = [_shapes(words[key]) for key in ("minShapes", "optShapes", "maxShapes")]
        for name in shapes[0]:
            profile.set_shape(name, *(shape[name] for shape in shapes))
        config.add_optimization_profile(profile)
    cache_file = Path(words["timingCacheFile"])
    cache = config.create_timing_cache(cache_file.read_bytes() if cache_file.is_file() else b"")
    if not config.set_timing_cache(cache, False):
        raise SystemExit("the timing cache is of another GPU or TensorRT")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise SystemExit("the builder gave no plan")
    Path(words["saveEngine"]).write_bytes(bytes(plan))
    cache_file.write_bytes(bytes(cache.serialize()))
    _, engine = _load(trt, logger, bytes(plan), words)
    _export_layers(trt, engine, words)


def _tune(trt: Any, config: Any, words: Dict[str, str]) -> None:
    """Set what only some versions have."""
    if "builderOptimizationLevel" in words:
        if not hasattr(type(config), "builder_optimization_level"):
            raise SystemExit("this TensorRT has no optimisation levels")
        config.builder_optimization_level = int(words["builderOptimizationLevel"])
    if "versionCompatible" in words:
        if not hasattr(trt.BuilderFlag, "VERSION_COMPATIBLE"):
            raise SystemExit("this TensorRT builds no version-compatible plans")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if "hardwareCompatibilityLevel" in words:
        level = _LEVELS[words["hardwareCompatibilityLevel"]]
        if not hasattr(getattr(trt, "HardwareCompatibilityLevel", None), level):
            raise SystemExit("this TensorRT knows no hardware compatibility %s" % level)
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)


def _use_dla(trt: Any, builder: Any, config: Any, words: Dict[str, str]) -> None:
    core, cores = int(words["useDLACore"]), int(builder.num_DLA_cores)
    if core >= cores:
        raise SystemExit("there is no DLA core %d: TensorRT finds %d, counted from 0" % (core, cores))
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if "allowGPUFallback" in words:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _run(trt: Any, logger: Any, words: Dict[str, str]) -> None:
    runtime, engine = _load(trt, logger, Path(words["loadEngine"]).read_bytes(), words)
    context = engine.create_execution_context()
    cuda = _Cuda()
    shapes = _shapes(words.get("shapes", ""))
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            shape = shapes.get(name) or tuple(engine.get_tensor_shape(name))
            if not context.set_input_shape(name, shape):
                raise SystemExit("the engine refused %s for %s" % (shape, name))
    for name in names:
        count = 1
        for size in context.get_tensor_shape(name):
            count *= int(size)
        context.set_tensor_address(name, cuda.allocate(_VALUE_BYTES * max(count, 1)))
    layers: List[Tuple[str, float]] = []
    if "exportProfile" in words:
        context.profiler = _profiler(trt, layers)
    rows = _timed(context, cuda, float(words.get("warmUp", 200)) / 1e3, float(words["duration"]), layers)
    if "exportTimes" in words:
        Path(words["exportTimes"]).write_text(json.dumps(rows))
    if "exportProfile" in words:
        Path(words["exportProfile"]).write_text(json.dumps(_profile(layers, len(rows))))
    _export_layers(trt, engine, words)
    del context, engine, runtime


def _timed(
    context: Any, cuda: "_Cuda", warm_up_s: float, duration_s: float, layers: List[Any]
) -> List[Dict[str, float]]:
    """Run until both times are over; rows have the keys of trtexec's `exportTimes`, in ms."""
    rows: List[Dict[str, float]] = []
    began = time.monotonic()
    while time.monotonic() - began < warm_up_s:
        _once(context, cuda)
    del layers[:]
    began = time.monotonic()
    while len(rows) < _LEAST_RUNS or time.monotonic() - began < duration_s:
        start_ms = 1e3 * (time.monotonic() - began)
        compute_ms = _once(context, cuda)
        end_ms = 1e3 * (time.monotonic() - began)
        stamps = {f"{edge}{part}Ms": start_ms for part in ("Enq", "H2d", "Compute") for edge in ("start", "end")}
        stamps.update(endComputeMs=end_ms, startD2hMs=end_ms, endD2hMs=end_ms)
        rows.append({**stamps, "h2dMs": 0.0, "computeMs": compute_ms, "d2hMs": 0.0, "latencyMs": compute_ms})
    return rows


def _once(context: Any, cuda: "_Cuda") -> float:
    cuda.record(0)
    if not context.execute_async_v3(cuda.stream):
        raise SystemExit("the engine could not be run")
    cuda.record(1)
    return cuda.elapsed_ms()


def _profile(layers: List[Tuple[str, float]], runs: int) -> List[Dict[str, Any]]:
    """Return layer times in the form of trtexec's `exportProfile`."""
    totals: Dict[str, float] = {}
    for name, spent_ms in layers:
        totals[name] = totals.get(name, 0.0) + spent_ms
    whole = sum(totals.values()) or 1.0
    rows = [
        {"name": name, "timeMs": spent, "averageMs": spent / runs, "percentage": 100 * spent / whole}
        for name, spent in totals.items()
    ]
    return [{"count": runs}, *rows]


def _load(trt: Any, logger: Any, plan: bytes, words: Dict[str, str]) -> Tuple[Any, Any]:
    runtime = trt.Runtime(logger)
    if "versionCompatible" in words:
        runtime.engine_host_code_allowed = True  # the plan carries a runtime of its own
    if "useDLACore" in words:
        runtime.DLA_core = int(words["useDLACore"])
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise SystemExit("the plan cannot be loaded")
    return runtime, engine


def _export_layers(trt: Any, engine: Any, words: Dict[str, str]) -> None:
    if "exportLayerInfo" not in words:
        return
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    Path(words["exportLayerInfo"]).write_text(text)


def _network_flags(trt: Any, is_dla: bool) -> Tuple[int, bool]:
    """Return the flags, and whether types are those of the model: a DLA takes them from flags where there are such."""
    creation = trt.NetworkDefinitionCreationFlag
    flags = 1 << int(creation.EXPLICIT_BATCH) if hasattr(creation, "EXPLICIT_BATCH") else 0
    if not hasattr(creation, "STRONGLY_TYPED") or (is_dla and hasattr(trt.BuilderFlag, "FP16")):
        return flags, False
    return flags | 1 << int(creation.STRONGLY_TYPED), True


def _logger(trt: Any) -> Any:
    def initialise(self: Any) -> None:
        trt.ILogger.__init__(self)

    def receive(self: Any, severity: Any, message: str) -> None:
        _say("%s | %s" % (getattr(severity, "name", severity), message))

    return type("Logger", (trt.ILogger,), {"__init__": initialise, "log": receive})()


def _profiler(trt: Any, layers: List[Tuple[str, float]]) -> Any:
    def initialise(self: Any) -> None:
        trt.IProfiler.__init__(self)

    def report(self: Any, name: str, spent_ms: float) -> None:
        layers.append((name, spent_ms))

    return type("Profiler", (trt.IProfiler,), {"__init__": initialise, "report_layer_time": report})()


def _shapes(text: str) -> Dict[str, Tuple[int, ...]]:
    """Read `x:1x3x8x8`, the name perhaps in quotes."""
    name, colon, sizes = text.rpartition(":")
    return {name.strip("'"): tuple(int(size) for size in sizes.split("x"))} if colon else {}


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - this is its log


class _Cuda:
    """One stream, two events and buffers through the CUDA driver; freed with the process."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._ok(self._cuda.cuInit(0))
        self._ok(self._cuda.cuDeviceGet(ctypes.byref(device), 0))
        self._ok(self._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        self._ok(self._cuda.cuCtxSetCurrent(context))
        self._ok(self._cuda.cuStreamCreate(ctypes.byref(stream), 0))
        self._events = (ctypes.c_void_p(), ctypes.c_void_p())
        for event in self._events:
            self._ok(self._cuda.cuEventCreate(ctypes.byref(event), 0))
        self.stream = int(stream.value or 0)

    def allocate(self, size_bytes: int) -> int:
        address = ctypes.c_uint64()
        self._ok(self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size_bytes)))
        self._ok(self._cuda.cuMemsetD8_v2(address, ctypes.c_ubyte(0), ctypes.c_size_t(size_bytes)))
        return address.value

    def record(self, number: int) -> None:
        self._ok(self._cuda.cuEventRecord(self._events[number], ctypes.c_void_p(self.stream)))

    def elapsed_ms(self) -> float:
        spent = ctypes.c_float()
        self._ok(self._cuda.cuEventSynchronize(self._events[1]))
        self._ok(self._cuda.cuEventElapsedTime(ctypes.byref(spent), *self._events))
        return float(spent.value)

    def _ok(self, code: int) -> None:
        if code:
            raise SystemExit("CUDA error %d%s" % (code, " (out of memory)" if code == 2 else ""))
