"""Small inputs for commands, made without edgekd."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from edgekd.cli.main import app


@pytest.fixture
def edgekd():
    """Run `edgekd` in this process."""
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="session")
def write_onnx():
    """Write a network [B, C, H, W] -> [B, 10]: mean over the picture, then a linear layer."""

    def write(path: Path, *, shape=("B", 3, 8, 8), kind=TensorProto.FLOAT, inputs=1, opset=17) -> Path:
        rng = np.random.default_rng(0)
        weights = numpy_helper.from_array(rng.standard_normal((3, 10)).astype(np.float32), "w")
        nodes = [
            helper.make_node("Cast", ["in0"], ["x"], to=TensorProto.FLOAT),
            helper.make_node("GlobalAveragePool", ["x"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["out"]),
        ]
        values = [helper.make_tensor_value_info(f"in{index}", kind, shape) for index in range(inputs)]
        out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [shape[0], 10])
        graph = helper.make_graph(nodes, "g", values, [out], [weights])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        onnx.save(model, str(path))
        return path

    return write
