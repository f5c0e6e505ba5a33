"""ONNX to engine, and running it: `onnxruntime`, `tensorrt_rtx` and `tensorrt` behind one protocol."""

from edgekd.engine.backend import Backend, BuildOptions, Runner
from edgekd.engine.fake import FakeRunner
from edgekd.engine.fusion import FusedLayer, FusedTensor, FusionReport, report_from_json, require_precision
from edgekd.engine.inputs import InputShape
from edgekd.engine.registry import BACKENDS
from edgekd.engine.scoring import score_of

__all__ = [
    "BACKENDS",
    "Backend",
    "BuildOptions",
    "FakeRunner",
    "FusedLayer",
    "FusedTensor",
    "FusionReport",
    "InputShape",
    "Runner",
    "report_from_json",
    "require_precision",
    "score_of",
]
