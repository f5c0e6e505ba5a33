"""Small ONNX graphs written by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

Shape = Sequence[int | str]
SaveOnnx = Callable[..., Path]


@pytest.fixture
def save_onnx(tmp_path: Path) -> SaveOnnx:
    """Return a function that writes nodes, constants and one input `x` / output `y` as a model file."""

    def save(
        nodes: Sequence[onnx.NodeProto],
        *,
        x: Shape,
        constants: dict[str, np.ndarray] | None = None,
        outputs: Sequence[str] = ("y",),
        name: str = "net.onnx",
        opsets: Sequence[onnx.OperatorSetIdProto] | None = None,
    ) -> Path:
        graph = helper.make_graph(
            list(nodes),
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
            [numpy_helper.from_array(value, key) for key, value in (constants or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=opsets or [helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / name
        onnx.save(model, str(path))
        return path

    return save


@pytest.fixture
def weights() -> Callable[..., np.ndarray]:
    """Return a function that makes float32 constants of a shape."""
    return lambda *shape: np.ones(shape, np.float32)
