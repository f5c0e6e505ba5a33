"""A stand-in for `tensorrt` that has only the names of one true version, and refuses what that version refuses.

Plans are the ONNX model behind a header; they "run" through the ONNX reference evaluator on memory of this process.
Importable as `tensorrt` in a build process: the version is then taken from EDGEKD_TEST_FAKE_TENSORRT. It finds as many
DLA cores as EDGEKD_TEST_FAKE_DLA_CORES says; they run convolutions and nothing else.
"""

import ctypes
import enum
import json
import os
import sys
import types
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

API = Path(__file__).parents[1] / "api"
MAGIC = b"ftrt"
TYPE_WORDS = {TensorProto.FLOAT: "FP32", TensorProto.FLOAT16: "FP16"}


class Names:
    """The names of one version."""

    def __init__(self, version):
        document = json.loads((API / f"tensorrt-{version}.json").read_text())
        self.version, self.module, self.classes = document["version"], document["module"], document["classes"]

    def restrict(self, cls):
        """Remove what the true class has not; refuse setting such a name on its objects, too."""
        allowed = self.classes[cls.__name__]

        def refuse(self, name, value):
            if not name.startswith("_") and name not in allowed:
                raise AttributeError(f"{cls.__name__} of this TensorRT has no {name}")
            object.__setattr__(self, name, value)

        members = {name: value for name, value in vars(cls).items() if name.startswith("__") or name in allowed}
        members |= {name: value for name, value in vars(cls).items() if name.startswith("_")}
        members.pop("__dict__", None)
        members.pop("__weakref__", None)
        return type(cls.__name__, cls.__bases__, members | {"__setattr__": refuse})

    def enum(self, name):
        return enum.IntEnum(name, [member for member in self.classes[name] if member.isupper()], start=0)


def precision_words(graph, words):
    """Type of each convolution and matrix product as the ONNX has it."""
    weights = {tensor.name: tensor.data_type for tensor in graph.initializer}
    dequantised = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            typed = "Int8" if node.input[0] in dequantised else TYPE_WORDS[weights[node.input[1]]]
            yield node, words(typed)


def make(version):
    """Build the module object of one version."""
    names = Names(version)
    trt = types.ModuleType("tensorrt")
    trt.__version__ = names.version
    enums = ("BuilderFlag", "NetworkDefinitionCreationFlag", "ProfilingVerbosity", "MemoryPoolType", "DataType")
    for name in (*enums, "DeviceType", "HardwareCompatibilityLevel"):
        setattr(trt, name, names.enum(name))
    trt.LayerInformationFormat = names.enum("LayerInformationFormat")
    creation = trt.NetworkDefinitionCreationFlag
    is_split_format = "EXPLICIT_BATCH" not in creation.__members__

    class ILogger:
        Severity = enum.Enum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"])

        def __init__(self):
            self._is_initialised = True

    class IProgressMonitor:
        def __init__(self):
            self._is_initialised = True

    class IProfiler:
        def __init__(self):
            self._is_initialised = True

    class ParserError:
        def __init__(self, index, node):
            self._index, self._node = index, node

        def node(self):
            return self._index

        def desc(self):
            return f"No importer registered for op: {self._node.op_type}"

        def node_name(self):
            return self._node.name

        def node_operator(self):
            return self._node.op_type

    class INetworkDefinition:
        def __init__(self, flags):
            self._flags, self._model = flags, None

        @property
        def num_layers(self):
            return len(self._model.graph.node)

    class OnnxParser:
        def __init__(self, network, logger):
            assert logger._is_initialised
            self._network, self._logger, self._errors = network, logger, []

        def parse_from_file(self, path):
            assert isinstance(path, str)
            model = onnx.load(path)
            self._errors = [ParserError(i, node) for i, node in enumerate(model.graph.node) if node.domain]
            self._network._model = model
            return not self._errors

        @property
        def num_errors(self):
            return len(self._errors)

        def get_error(self, index):
            return self._errors[index]

    class IOptimizationProfile:
        def __init__(self):
            self._shapes = {}

        def set_shape(self, input, min, opt, max):
            self._shapes[input] = (min, opt, max)

    class ITimingCache:
        def __init__(self, content):
            self._content = content

        def serialize(self):
            return memoryview(self._content or names.version.encode())

    class IBuilderConfig:
        def __init__(self):
            self._flags, self._pools, self._profiles, self._cache = {trt.BuilderFlag.TF32}, {}, [], None
            self._verbosity, self._monitor = None, None
            self._device, self._core = trt.DeviceType.GPU, None
            self._level, self._hardware = 3, trt.HardwareCompatibilityLevel.NONE

        def set_flag(self, flag):
            self._flags.add(flag)

        def get_flag(self, flag):
            return flag in self._flags

        def set_memory_pool_limit(self, pool, size):
            self._pools[pool] = size

        def add_optimization_profile(self, profile):
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, content):
            assert isinstance(content, bytes)
            return ITimingCache(content)

        def set_timing_cache(self, cache, ignore_mismatch):
            assert ignore_mismatch is False
            self._cache = cache
            return cache._content in (b"", names.version.encode())

        @property
        def profiling_verbosity(self):
            return self._verbosity

        @profiling_verbosity.setter
        def profiling_verbosity(self, value):
            self._verbosity = value

        @property
        def builder_optimization_level(self):
            return self._level

        @builder_optimization_level.setter
        def builder_optimization_level(self, value):
            self._level = int(value)

        @property
        def hardware_compatibility_level(self):
            return self._hardware

        @hardware_compatibility_level.setter
        def hardware_compatibility_level(self, value):
            self._hardware = trt.HardwareCompatibilityLevel(value)

        @property
        def default_device_type(self):
            return self._device

        @default_device_type.setter
        def default_device_type(self, value):
            self._device = trt.DeviceType(value)

        @property
        def DLA_core(self):
            return self._core

        @DLA_core.setter
        def DLA_core(self, value):
            self._core = int(value)

        @property
        def progress_monitor(self):
            return self._monitor

        @progress_monitor.setter
        def progress_monitor(self, value):
            assert value._is_initialised
            self._monitor = value

    class Builder:
        def __init__(self, logger):
            assert logger._is_initialised
            self._logger = logger

        @property
        def num_DLA_cores(self):
            return int(os.environ.get("EDGEKD_TEST_FAKE_DLA_CORES", "0"))

        def create_network(self, flags=0):
            if "EXPLICIT_BATCH" in creation.__members__ and not flags >> creation.EXPLICIT_BATCH & 1:
                raise RuntimeError("only explicit batch is supported by the ONNX parser")
            return INetworkDefinition(flags)

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            problem = self._problem(network, config)
            if problem:
                self._logger.log(ILogger.Severity.ERROR, problem)
                return None
            self._logger.log(ILogger.Severity.WARNING, "a warning of the builder")
            monitor = getattr(config, "progress_monitor", None)
            if monitor is not None:
                monitor.phase_start("Building Engine", None, 2)
                assert monitor.step_complete("Building Engine", 0)
                monitor.phase_finish("Building Engine")
            is_dla = config._device == trt.DeviceType.DLA
            header = {"verbosity": str(config._verbosity), "words": self._words(network, config), "is_dla": is_dla}
            header["level"], header["hardware"] = config._level, config._hardware.name
            header["flags"] = sorted(flag.name for flag in config._flags)
            if is_dla:
                self._place(network)
            return memoryview(MAGIC + json.dumps(header).encode() + b"\n" + network._model.SerializeToString())

        def _problem(self, network, config):
            shape = network._model.graph.input[0].type.tensor_type.shape.dim
            if shape[0].WhichOneof("value") != "dim_value" and not config._profiles:
                return "Network has dynamic or shape inputs, but no optimization profile has been defined."
            harmless = {"TF32", "GPU_FALLBACK", "VERSION_COMPATIBLE"}
            if self._is_strong(network) and {flag.name for flag in config._flags} - harmless:
                return "precision flags are not permitted on a strongly typed network"
            kinds = {node.op_type for node in network._model.graph.node}
            if (
                config._device == trt.DeviceType.DLA
                and trt.BuilderFlag.GPU_FALLBACK not in config._flags
                and kinds > {"Conv"}
            ):
                return "DLA does not support all layers, and GPU fallback is not enabled"
            return None

        def _place(self, network):
            def say(severity, words):
                self._logger.log(getattr(ILogger.Severity, severity), words)

            nodes = network._model.graph.node
            names = [node.name or f"(Unnamed Layer* {place})" for place, node in enumerate(nodes)]
            on_gpu = [
                (name, node.op_type.upper()) for name, node in zip(names, nodes, strict=True) if node.op_type != "Conv"
            ]
            for name, kind in on_gpu:
                why = "Unsupported on DLA. Switching this layer's device type to GPU."
                say("WARNING", f"Layer '{name}' ({kind}): {why}")
            say("INFO", "---------- Layers Running on DLA ----------")
            for node in nodes:
                if node.op_type == "Conv":
                    say("INFO", f"[DlaLayer] {{ForeignNode[{node.name}]}}")
            say("INFO", "---------- Layers Running on GPU ----------")
            for name, kind in on_gpu:
                say("INFO", f"[GpuLayer] {kind}: {name}")

        def _is_strong(self, network):
            if "STRONGLY_TYPED" not in creation.__members__:
                return False
            return is_split_format or bool(network._flags >> creation.STRONGLY_TYPED & 1)

        def _words(self, network, config):
            flags = {flag.name for flag in config._flags}
            needed = {"FP16": "FP16", "Int8": "INT8"}

            def words(typed):  # weakly typed: a type is only used when its flag allows it
                is_allowed = self._is_strong(network) or typed == "FP32" or needed[typed] in flags
                return typed if is_allowed else "FP32"

            return {node.name: word for node, word in precision_words(network._model.graph, words)}

    class EngineInspector:
        def __init__(self, header, model):
            self._header, self._model = header, model

        def get_engine_information(self, format):
            assert format == trt.LayerInformationFormat.JSON
            if self._header["verbosity"] != str(trt.ProfilingVerbosity.DETAILED):
                return json.dumps({"Layers": list(self._header["words"])})
            layers = [self._layer(name, word) for name, word in self._header["words"].items()]
            if self._header["is_dla"]:
                layers = [{**layer, "Name": f"{{ForeignNode[{layer['Name']}]}}"} for layer in layers]
            return json.dumps({"Layers": layers, **({} if is_split_format else {"Bindings": ["input", "logits"]})})

        def _layer(self, name, word):
            def tensor(suffix, shape):
                if is_split_format:
                    form = {"Format": "Row major linear", "Datatype": word}
                else:
                    form = {"Format/Datatype": f"Row major linear {word} format"}
                return {"Name": name + suffix, "Location": "Device", "Dimensions": shape, **form}

            return {
                "Name": name,
                "LayerType": "CaskConvolution",
                "Inputs": [tensor("_in", [1, 3, 16, 16])],
                "Outputs": [tensor("_out", [1, 8, 8, 8])],
                "ParameterType": "Convolution",
                "Metadata": f"[ONNX Layer: {name}]",
            }

    class IExecutionContext:
        def __init__(self, model):
            model.opset_import[0].version = 19  # the evaluator has no older Q/DQ; the same sums
            self._evaluator = ReferenceEvaluator(model)
            self._classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
            self._takes_float = model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
            self._addresses, self._shape, self._profiler = {}, None, None

        def set_input_shape(self, name, shape):
            assert name == "input"
            self._shape = tuple(shape)
            return True

        def get_tensor_shape(self, name):
            return self._shape if name == "input" else (self._shape[0], self._classes)

        @property
        def profiler(self):
            return self._profiler

        @profiler.setter
        def profiler(self, value):
            assert value._is_initialised
            self._profiler = value

        def set_tensor_address(self, name, memory):
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle):
            assert isinstance(stream_handle, int)
            recorder = getattr(trt, "fake_recorder", None)  # True: kept for a graph, False: to be done, None: refused
            taken = recorder(self._execute) if recorder is not None else False
            return taken is True or (taken is False and self._execute())

        def _execute(self):
            count = int(np.prod(self._shape))
            kind = ctypes.c_float if self._takes_float else ctypes.c_int64
            source = (kind * count).from_address(self._addresses["input"])
            (logits,) = self._evaluator.run(None, {"input": np.ctypeslib.as_array(source).reshape(self._shape)})
            ctypes.memmove(self._addresses["logits"], logits.ctypes.data, logits.nbytes)
            if self._profiler is not None:
                self._profiler.report_layer_time("Conv_0", 0.25)
            return True

    class ICudaEngine:
        def __init__(self, header, model):
            self._header, self._model = header, model

        def create_engine_inspector(self):
            return EngineInspector(self._header, self._model)

        def create_execution_context(self):
            return IExecutionContext(self._model)

        @property
        def num_io_tensors(self):
            return len(self._values)

        @property
        def _values(self):
            return [*self._model.graph.input, *self._model.graph.output]

        def get_tensor_name(self, index):
            return self._values[index].name

        def get_tensor_mode(self, name):
            return trt.TensorIOMode.INPUT if name == self._values[0].name else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name):
            (value,) = (value for value in self._values if value.name == name)
            dims = value.type.tensor_type.shape.dim
            return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)

        def get_tensor_dtype(self, name):
            values = [*self._model.graph.input, *self._model.graph.output]
            (value,) = (value for value in values if value.name == name)
            integer = trt.DataType.INT64 if "INT64" in trt.DataType.__members__ else trt.DataType.INT32
            types = {TensorProto.FLOAT: trt.DataType.FLOAT, TensorProto.FLOAT16: trt.DataType.HALF}
            return types.get(value.type.tensor_type.elem_type, integer)

    class Runtime:
        def __init__(self, logger):
            self._logger, self._core, self._may_run_host_code = logger, None, False

        @property
        def DLA_core(self):
            return self._core

        @DLA_core.setter
        def DLA_core(self, value):
            self._core = value

        @property
        def engine_host_code_allowed(self):
            return self._may_run_host_code

        @engine_host_code_allowed.setter
        def engine_host_code_allowed(self, value):
            self._may_run_host_code = value

        def deserialize_cuda_engine(self, plan):
            if not plan.startswith(MAGIC):
                self._logger.log(ILogger.Severity.ERROR, "the plan has a wrong magic tag")
                return None
            header, _, model = plan[len(MAGIC) :].partition(b"\n")
            if "VERSION_COMPATIBLE" in json.loads(header)["flags"] and not self._may_run_host_code:
                self._logger.log(ILogger.Severity.ERROR, "the plan holds a lean runtime, host code is not allowed")
                return None
            if json.loads(header)["is_dla"] and self._core is None:
                self._logger.log(ILogger.Severity.ERROR, "the plan needs a DLA core")
                return None
            return ICudaEngine(json.loads(header), onnx.load_from_string(model))

    local = dict(locals())
    trt.TensorIOMode = enum.IntEnum("TensorIOMode", ["NONE", "INPUT", "OUTPUT"], start=0)
    for name in ("IProgressMonitor", "ILogger", "IProfiler"):
        if name in names.module:
            setattr(trt, name, local[name])
    classes = {name: value for name, value in local.items() if isinstance(value, type) and name in names.classes}
    trt.fake_members = {
        name: [member for member in vars(value) if not member.startswith("_")] for name, value in classes.items()
    }
    ParserError = names.restrict(ParserError)
    IBuilderConfig = names.restrict(IBuilderConfig)
    INetworkDefinition = names.restrict(INetworkDefinition)
    IOptimizationProfile = names.restrict(IOptimizationProfile)
    ITimingCache = names.restrict(ITimingCache)
    IExecutionContext = names.restrict(IExecutionContext)
    ICudaEngine = names.restrict(ICudaEngine)
    EngineInspector = names.restrict(EngineInspector)
    trt.OnnxParser, trt.Builder, trt.Runtime = map(names.restrict, (OnnxParser, Builder, Runtime))
    return trt


if os.environ.get("EDGEKD_TEST_FAKE_TENSORRT") and __name__ == "tensorrt":
    sys.modules["tensorrt"] = make(os.environ["EDGEKD_TEST_FAKE_TENSORRT"])
