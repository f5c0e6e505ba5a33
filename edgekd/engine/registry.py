"""The backends by name."""

from __future__ import annotations

from edgekd.core.registry import Registry
from edgekd.engine.backend import Backend
from edgekd.engine.onnxruntime import OnnxRuntime
from edgekd.engine.tensorrt import TensorRt
from edgekd.engine.tensorrt_rtx import TensorRtRtx

BACKENDS: Registry[Backend] = Registry("engine backend")
BACKENDS.add("onnxruntime", OnnxRuntime())
BACKENDS.add("tensorrt_rtx", TensorRtRtx())
BACKENDS.add("tensorrt", TensorRt())
