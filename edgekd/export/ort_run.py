"""Runs an ONNX model on ONNX Runtime's CPU provider for checks: one thread, no timing, the same result every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import ExportError, missing_package
from edgekd.data import NetInputs

_DROPS_RELU = "ReluQuantRewrite"
"""A rewrite of ONNX Runtime that drops a Relu before a QuantizeLinear whose zero point is the lowest value; it takes
the zero of float8 for that, and lets negative values through."""


def session_options(threads: int = 1) -> Any:
    """Return ONNX Runtime's options that all sessions share: quiet, so many threads, exact int8 products.

    Without an entry of their own, int8 products saturate at 16 bits on x64 processors that lack VNNI.

    Raises:
        PreconditionError: `onnxruntime` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "running ONNX models") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def run_onnx(content: bytes, inputs: NetInputs, *, batch: int, as_written: bool = False) -> npt.NDArray[np.float32]:
    """Compute the output of every input.

    Args:
        content: A serialised ONNX model with one input and one output.
        inputs: Pictures float32 `[n, C, H, W]` in 0..1, or tokens int64 `[n, L]`, `n >= 1`.
        batch: Inputs per call; the last call is filled up with copies of the last input.
        as_written: Compute Q/DQ as the graph says. ONNX Runtime's int8 kernels round biases and sums themselves, which
            moves outputs by several per cent.

    Returns:
        Outputs `[n, ...]`, float32.

    Raises:
        ExportError: ONNX Runtime cannot load or run the model.
        PreconditionError: `onnxruntime` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package("onnxruntime", "cpu", "checking an ONNX model's numbers") from error
    options = session_options()
    if as_written:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    try:
        session = onnxruntime.InferenceSession(
            content,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=[_DROPS_RELU] if as_written else None,
        )
        name = session.get_inputs()[0].name
        parts = [session.run(None, {name: chunk})[0][:used] for chunk, used in _chunks(inputs, batch)]
    except Exception as error:  # onnxruntime's exceptions share no narrower base class
        raise ExportError(f"ONNX Runtime cannot run the model: {str(error).splitlines()[0]}") from error
    return np.concatenate(parts).astype(np.float32, copy=False)


def _chunks(inputs: NetInputs, batch: int) -> list[tuple[NetInputs, int]]:
    chunks = []
    for start in range(0, len(inputs), batch):
        chunk = inputs[start : start + batch]
        missing = batch - len(chunk)
        chunks.append((np.concatenate([chunk, np.repeat(chunk[-1:], missing, axis=0)]), len(chunk)))
    return chunks
