"""From a torch network to a checked ONNX file, and the proof that both compute the same logits."""

from edgekd.export.cleanup import strip_metadata
from edgekd.export.fp16_rounding import fp16_rounded, half_tensor
from edgekd.export.model_file import Form, read_content, read_proto, vocabulary_of, with_shapes, write_model
from edgekd.export.net_inputs import input_problem, random_inputs
from edgekd.export.node_names import module_of
from edgekd.export.ort_run import run_onnx
from edgekd.export.parity import (
    Parity,
    ParityReport,
    TaskParity,
    parity,
    require_parity,
    task_parity,
)
from edgekd.export.torch_export import export_onnx

__all__ = [
    "Form",
    "Parity",
    "ParityReport",
    "TaskParity",
    "export_onnx",
    "fp16_rounded",
    "half_tensor",
    "input_problem",
    "module_of",
    "parity",
    "random_inputs",
    "read_content",
    "read_proto",
    "require_parity",
    "run_onnx",
    "strip_metadata",
    "task_parity",
    "vocabulary_of",
    "with_shapes",
    "write_model",
]
