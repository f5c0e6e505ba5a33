"""Engines of ONNX Runtime: the ONNX itself, run with options that were written down when it was accepted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd_agent.engine.running import Engine, Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Without it int8 products saturate at 16 bits on x64 processors that lack VNNI.
_UNSATURATED = ("session.x64quantprecision", "1")
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64", "tensor(int32)": "int32"}


class OnnxRuntimeEngine:
    """A session.

    Args:
        session: The session of ONNX Runtime.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        source = session.get_inputs()[0]
        self.input_name: str = source.name
        self.input_dtype: np.dtype[Any] = np.dtype(_DTYPES[source.type])
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, inputs: NDArray[Any]) -> Mapping[str, NDArray[Any]]:
        """Return the outputs for one batch."""
        given = np.ascontiguousarray(inputs, dtype=self.input_dtype)
        try:
            values = self._session.run(self._outputs, {self.input_name: given})
        except Exception as error:  # ONNX Runtime's own exceptions share no base class
            raise Refused("health", f"the engine could not be run: {_first_line(error)}") from error
        return dict(zip(self._outputs, values, strict=True))

    def device_memory_bytes(self) -> int:
        """Return 0: it all is memory of this process."""
        return 0


def load(model: Path, options: Mapping[str, Any]) -> Engine:
    """Open a model; raises `Refused` when ONNX Runtime does not take it."""
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.log_severity_level = 3
    chosen.add_session_config_entry(*_UNSATURATED)
    chosen.intra_op_num_threads = int(options.get("intra_op_num_threads", 0))
    try:
        session = onnxruntime.InferenceSession(str(model), chosen, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise Refused("build", f"ONNX Runtime does not take the model: {_first_line(error)}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in _DTYPES:
        found = ", ".join(f"{item.name} {item.type}" for item in inputs)
        raise Refused("build", f"the model has inputs {found or 'none'}; one of a common type is needed")
    return OnnxRuntimeEngine(session)


def version() -> str:
    """Return the version of ONNX Runtime."""
    import onnxruntime

    return str(onnxruntime.__version__)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
