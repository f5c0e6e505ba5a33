"""TensorRT-RTX backend: real engines for desktop GPUs, built on the CPU in a process of their own."""

from edgekd.engine.tensorrt_rtx.backend import CAPABILITIES, TensorRtRtx, compute_capability
from edgekd.engine.tensorrt_rtx.builder_log import fusion_from_log, io_tensors_from_log

__all__ = ["CAPABILITIES", "TensorRtRtx", "compute_capability", "fusion_from_log", "io_tensors_from_log"]
