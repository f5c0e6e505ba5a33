"""Small ONNX models written by hand, and the nouns that describe them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.artifacts import FileRef, OnnxModel

SHAPE = (3, 16, 16)
CLASSES = 10


class Net:
    """Two strided convolutions, pooling and a classifier; `kind` says how its types are written."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.dtype = np.float16 if kind == "fp16" else np.float32
        self.rng = np.random.default_rng(0)
        self.weights: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def quantised(self, name: str, output: str) -> str:
        is_unsigned = self.kind == "int8-cpu"
        scale = self.constant(f"{output}_scale", np.float32(0.02))
        zero = self.constant(f"{output}_zero", np.uint8(0) if is_unsigned else np.int8(0))
        quantised = self.node("QuantizeLinear", [name, scale, zero], f"{output}_q")
        return self.node("DequantizeLinear", [quantised, scale, zero], output)

    def convolution(self, name: str, channels: tuple[int, int], index: int) -> str:
        values = self.rng.normal(0, 0.2, (channels[1], channels[0], 3, 3))
        if not self.kind.startswith("int8"):
            weight = self.constant(f"weight{index}", values.astype(self.dtype))
        else:
            name = self.quantised(name, f"in{index}")
            stored = self.constant(f"weight{index}_q", np.clip(values / 0.01, -127, 127).round().astype(np.int8))
            scale = self.constant(f"weight{index}_scale", np.full(channels[1], 0.01, np.float32))
            zero = self.constant(f"weight{index}_zero", np.zeros(channels[1], np.int8))
            weight = self.node("DequantizeLinear", [stored, scale, zero], f"weight{index}", axis=0)
        inputs = [name, weight]
        if not self.kind.startswith("int8"):
            inputs.append(self.constant(f"bias{index}", self.rng.normal(0, 0.2, channels[1]).astype(self.dtype)))
        convolved = self.node("Conv", inputs, f"conv{index}", pads=[1] * 4, strides=[2, 2])
        return self.node("Relu", [convolved], f"relu{index}")

    def proto(self, batch: int, opset: int) -> onnx.ModelProto:
        name = "input"
        if self.kind == "fp16":
            name = self.node("Cast", [name], "half", to=TensorProto.FLOAT16)
        name = self.convolution(name, (3, 8), 0)
        name = self.convolution(name, (8, 16), 1)
        if self.kind.startswith("int8"):
            name = self.quantised(name, "pooled_in")
        name = self.node("GlobalAveragePool", [name], "pooled")
        name = self.node("Flatten", [name], "flat")
        weight = self.constant("fc", self.rng.normal(size=(16, CLASSES)).astype(self.dtype))
        bias = self.constant("fc_bias", np.zeros(CLASSES, self.dtype))
        name = self.node("Gemm", [name, weight, bias], "scores" if self.kind == "fp16" else "logits")
        if self.kind == "fp16":
            self.node("Cast", [name], "logits", to=TensorProto.FLOAT)
        size = batch or "N"
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [size, *SHAPE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [size, CLASSES])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


@pytest.fixture
def onnx_model(tmp_path: Path) -> Callable[..., OnnxModel]:
    """Write a model and describe it: `onnx_model("fp32")`, `onnx_model("int8-cpu", batch=4)`."""

    def make(
        kind: str = "fp32", *, batch: int = 0, opset: int = 17, edit: Callable[..., None] | None = None
    ) -> OnnxModel:
        proto = Net(kind).proto(batch, opset)
        if edit is not None:
            edit(proto)
        path = tmp_path / f"{kind}-{batch}.onnx"
        path.write_bytes(proto.SerializeToString())
        precision = kind.partition("-")[0]
        flavour = {"int8": "tensorrt", "int8-cpu": "cpu"}.get(kind, "any")
        return OnnxModel(FileRef.of(path), precision, flavour, opset, "input", SHAPE, "logits", batch)

    return make


@pytest.fixture
def text_model(tmp_path: Path) -> tuple[OnnxModel, np.ndarray]:
    """Write a model of texts `[B, 3]`, the mean of its tokens' vectors through a product, and return its table too."""
    table = np.random.default_rng(3).normal(size=(10, 4)).astype(np.float32)
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input"], ["states"], name="node_states"),
            helper.make_node("ReduceMean", ["states"], ["mean"], name="node_mean", axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["logits"], name="node_logits"),
        ],
        "text",
        [value("input", TensorProto.INT64, ["N", 3])],
        [value("logits", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(table[:4].copy(), "weight")],
    )
    path = tmp_path / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    model = OnnxModel(FileRef.of(path), "fp32", "any", 17, "input", (3,), "logits", 0, vocabulary=10)
    return model, table


@pytest.fixture
def images() -> np.ndarray:
    """Eight random pictures, float32 `[8, 3, 16, 16]` in 0..1."""
    return np.random.default_rng(1).random((8, *SHAPE), dtype=np.float32)
