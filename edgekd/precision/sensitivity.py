"""How much each layer suffers when it alone is quantised: noise in its own output, and the task's score."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgekd.core.artifacts import OnnxModel
from edgekd.core.errors import ExportError
from edgekd.data import NetInputs
from edgekd.export import read_proto, run_onnx
from edgekd.precision.int8 import Calibrated, write_int8

Scorer = Callable[[OnnxModel], float]
_NOISELESS_DB = 200.0


@dataclass(frozen=True)
class Sensitivity:
    """One layer quantised, all others in float.

    Attributes:
        layer: Name of its node.
        operator: Its ONNX operator.
        snr_db: Power of its float output over that of the error, 10 log10.
        score: Score of the network on the held-out split.
    """

    layer: str
    operator: str
    snr_db: float
    score: float


def sensitivities(ready: Calibrated, inputs: NetInputs, score: Scorer) -> tuple[Sensitivity, ...]:
    """Quantise each layer alone.

    Args:
        ready: A calibrated model.
        inputs: Inputs to compare outputs on, as the network takes them.
        score: Gives the score of a model on the held-out split.

    Returns:
        One entry a layer, in the order they run.

    Raises:
        ExportError: A model cannot be written or run.
        PreconditionError: `onnxruntime` is not installed.
    """
    operators = {node.name: node.op_type for node in ready.proto.graph.node}
    with tempfile.TemporaryDirectory(prefix="edgekd-layers-") as folder:
        found = []
        for layer in ready.layers:
            others = [name for name in ready.layers if name != layer]
            model = write_int8(ready, Path(folder) / "alone.onnx", kept_float=others)
            expected = layer_output(ready.proto, layer, inputs, ready.source.batch)
            noisy = layer_output(read_proto(model), layer, inputs, ready.source.batch)
            found.append(Sensitivity(layer, operators[layer], snr_db(expected, noisy), score(model)))
    return tuple(found)


def snr_db(signal: npt.NDArray[np.float32], noisy: npt.NDArray[np.float32]) -> float:
    """Return the ratio of a signal's power to that of what is wrong with it, in decibels; 200 where nothing is.

    Args:
        signal: Reference values.
        noisy: Values of the same shape.
    """
    power = float(np.square(signal, dtype=np.float64).sum())
    error = float(np.square(signal.astype(np.float64) - noisy).sum())
    if error == 0:
        return _NOISELESS_DB
    return max(-_NOISELESS_DB, min(_NOISELESS_DB, 10 * math.log10(power / error))) if power else -_NOISELESS_DB


def layer_output(proto: onnx.ModelProto, layer: str, inputs: NetInputs, batch: int) -> npt.NDArray[np.float32]:
    """Run a network up to one node.

    Args:
        proto: The network.
        layer: Name of the node.
        inputs: Inputs as it takes them.
        batch: Its fixed batch size, or 0.

    Returns:
        The node's first output, `[n, ...]`.

    Raises:
        ExportError: There is no such node, or the model does not run.
    """
    output = next((node.output[0] for node in proto.graph.node if node.name == layer), None)
    if output is None:
        raise ExportError(f"the graph has no node {layer!r}")
    cut = onnx.ModelProto()
    cut.CopyFrom(proto)
    del cut.graph.output[:]
    cut.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    return run_onnx(cut.SerializeToString(), inputs, batch=batch or len(inputs), as_written=True)
