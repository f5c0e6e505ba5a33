"""ONNX Runtime: the backend that runs everywhere, and the numeric oracle of the others.

It falls back in silence: a provider that cannot load is dropped, float16 becomes float32 on a CPU, a quantised layer
whose pattern is not recognised runs in float. So what a session really does is read back after it was made.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgekd.core.artifacts import Engine, OnnxModel
from edgekd.core.errors import BuildError, ConfigError, TargetError, missing_package
from edgekd.data import NetInputs
from edgekd.engine.backend import BuildOptions, Runner, model_facts
from edgekd.engine.inputs import InputShape
from edgekd.engine.model_check import checked_model, require_intact
from edgekd.engine.plan_process import SIDECAR_NAME, write_sidecar
from edgekd.engine.portability import TIED
from edgekd.export.ort_run import session_options

if TYPE_CHECKING:
    from onnx import GraphProto

CPU_PROVIDER = "CPUExecutionProvider"
_NAME = "onnxruntime"
_SAVES_GRAPH = (CPU_PROVIDER, "CUDAExecutionProvider")  # a graph with nodes compiled by a provider cannot be saved
_INTEGER_OPS = ("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat")
_FLOAT_OPS = ("Conv", "FusedConv", "ConvTranspose", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "NhwcFusedConv")


class OnnxRuntime:
    """The `onnxruntime` backend. The engine file is the ONNX model itself."""

    name = _NAME

    def available(self) -> str | None:
        """Return None when ONNX Runtime can be imported, else the reason why not."""
        try:
            importlib.import_module(_NAME)
        except ImportError as error:
            return f"{missing_package(_NAME, 'cpu', 'running ONNX models')} ({error})"
        return None

    def build(self, model: OnnxModel, folder: Path, options: BuildOptions) -> Engine:
        """Optimise the model for the provider, read back what became of it, and write `build.json`."""
        _require_provider_fits(options)
        if options.optimization_level is not None or options.portability != TIED:
            raise ConfigError("optimisation levels and portable plans are TensorRT's; onnxruntime has neither")
        proto = checked_model(model, options)
        facts = {
            **model_facts(model),
            "min_batch": model.batch or 1,
            "max_batch": model.batch,
            "threads": options.threads,
            **_optimised_facts(Path(model.file.path), options),
            "num_parsed_nodes": len(proto.graph.node),
        }
        target = "cpu" if options.provider == CPU_PROVIDER else options.target.name
        engine = Engine(_NAME, target, model.precision, model.file, facts, (model.digest,))
        write_sidecar(folder / SIDECAR_NAME, engine)
        return engine

    def open(self, engine: Engine) -> Runner:
        """Open a session with the threads and provider the engine was built with."""
        path = require_intact(engine)
        session, _ = _session(path, int(engine.facts["threads"]), str(engine.facts["provider"]))
        return OnnxRuntimeRunner(session, engine)


class OnnxRuntimeRunner:
    """An open ONNX Runtime session.

    Args:
        session: `onnxruntime.InferenceSession`.
        engine: What it was opened from.
    """

    def __init__(self, session: Any, engine: Engine) -> None:
        facts = engine.facts
        self._session = session
        self._names = (str(facts["input_name"]), str(facts["output_name"]))
        self._shape = InputShape(
            tuple(facts["input_shape"]), min_batch=int(facts["min_batch"]), max_batch=int(facts["max_batch"])
        )
        self.provider: str = session.get_providers()[0]
        kept = ("version", "threads", "min_batch", "max_batch", "compute_precisions")
        self.facts: Mapping[str, Any] = {
            "backend": _NAME,
            "engine_digest": engine.digest,
            **{name: facts[name] for name in kept},
        }

    def run(self, inputs: NetInputs) -> NDArray[np.float32]:
        """Run one batch; see `Runner.run`."""
        if self._session is None:
            raise BuildError("the runner is closed")
        checked = self._shape.checked(inputs)
        try:
            (logits,) = self._session.run([self._names[1]], {self._names[0]: checked})
        except _ort_errors() as error:
            raise BuildError(f"ONNX Runtime failed to run the model: {error}") from error
        result: NDArray[np.float32] = logits
        return result

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None


def _require_provider_fits(options: BuildOptions) -> None:
    is_cpu = options.provider == CPU_PROVIDER
    if is_cpu == (options.target.kind == "cpu"):
        return
    advice = "choose the target 'cpu'" if is_cpu else "choose the target of this machine's GPU"
    raise TargetError(f"{options.provider} does not run on {options.target.name}; {advice}, or another provider")


def _session(path: Path, threads: int, provider: str, optimised: Path | None = None) -> tuple[Any, str]:
    ort = _import()
    options = session_options(threads)
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    if provider not in ort.get_available_providers():
        raise BuildError(
            f"ONNX Runtime has no {provider}; installed are {', '.join(ort.get_available_providers())} "
            "(GPU providers come with: pip install 'edgekd[gpu]')"
        )
    try:
        with warnings.catch_warnings(record=True) as caught:
            session = ort.InferenceSession(str(path), options, providers=[provider])
    except _ort_errors() as error:
        raise BuildError(f"ONNX Runtime refused {path.name}: {error}") from error
    active = session.get_providers()
    if active[0] != provider:
        said = "; ".join(str(warning.message) for warning in caught) or "it gave no reason"
        raise BuildError(f"{provider} was asked for, but ONNX Runtime really uses {', '.join(active)}: {said}")
    return session, str(ort.__version__)


def _optimised_facts(path: Path, options: BuildOptions) -> dict[str, Any]:
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgekd-ort-") as scratch:
        optimised = Path(scratch) / "optimised.onnx" if options.provider in _SAVES_GRAPH else None
        session, version = _session(path, options.threads, options.provider, optimised)
        graph = onnx.GraphProto() if optimised is None else onnx.load(str(optimised)).graph
    nodes = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in graph.node)
    return {
        "version": version,
        "provider": session.get_providers()[0],
        "providers": list(session.get_providers()),
        "num_nodes": len(graph.node),
        "nodes_by_kind": dict(sorted(nodes.items())),
        "compute_precisions": compute_precisions(graph),
    }


def compute_precisions(graph: GraphProto) -> dict[str, int]:
    """Count the convolutions and matrix products of an optimised graph by the type they compute in.

    Args:
        graph: ONNX graph as ONNX Runtime saved it after optimisation.

    Returns:
        Number of nodes by `fp32`, `fp16`, `int8` or `unknown` (weights that are not constants). A node whose weights
        are dequantised before it computes in float, whatever they are stored in.
    """
    from onnx import TensorProto

    words = {int(TensorProto.FLOAT): "fp32", int(TensorProto.FLOAT16): "fp16"}
    types = {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    dequantised = (node for node in graph.node if node.op_type == "DequantizeLinear")
    types |= {node.output[0]: types.get(node.input[1], 0) for node in dequantised}
    counts: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in _INTEGER_OPS:
            counts["int8"] += 1
        elif node.op_type in _FLOAT_OPS:
            constant = next((types[name] for name in node.input[1:] if name in types), 0)
            counts[words.get(constant, "unknown")] += 1
    return dict(sorted(counts.items()))


def _import() -> ModuleType:
    try:
        return importlib.import_module(_NAME)
    except ImportError as error:
        raise missing_package(_NAME, "cpu", "running ONNX models") from error


def _ort_errors() -> tuple[type[Exception], ...]:
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")
    errors: list[type[Exception]] = [getattr(state, name) for name in (*names, "RuntimeException", "EPFail")]
    return (*errors, RuntimeError, ValueError)
