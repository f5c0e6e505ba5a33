"""Sessions of ONNX Runtime compute int8 products exactly, on processors too whose fast instructions saturate."""

import numpy as np
import onnx
import onnxruntime
import pytest
from edgekd_agent.engine.onnxruntime_engine import load
from onnx import TensorProto, helper, numpy_helper

from edgekd.engine.onnxruntime import _session
from edgekd.export import run_onnx
from edgekd.export.layerwise.sides import OnnxSide
from edgekd.profile.ort_layers import ort_layers

DEPTH = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A product of the largest bytes: pairs of them, added up in 16 bits, are twice what 16 bits hold."""
    path = tmp_path_factory.mktemp("int8") / "product.onnx"

    def constant(name, value):
        return numpy_helper.from_array(np.asarray(value), name)

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "one", "none"], ["dw"]),
        helper.make_node("MatMul", ["d", "dw"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "coarse", "zero"], ["qy"]),
        helper.make_node("DequantizeLinear", ["qy", "coarse", "zero"], ["y"]),
    ]
    constants = [
        constant("one", np.float32(1)),
        constant("coarse", np.float32(127 * 255 * DEPTH / 255)),
        constant("zero", np.uint8(0)),
        constant("none", np.int8(0)),
        constant("w", np.full((DEPTH, 8), 127, np.int8)),
    ]
    shapes = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, DEPTH]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8]),
    ]
    graph = helper.make_graph(nodes, "g", shapes[:1], shapes[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def inputs():
    return np.full((1, DEPTH), 255, np.float32)


EXPECTED = 127.0 * 255.0 * DEPTH


def test_checks_compute_them_exactly(model, inputs):
    assert run_onnx(model.read_bytes(), inputs, batch=1) == pytest.approx(EXPECTED)


def test_engines_compute_them_exactly(model, inputs):
    session, _ = _session(model, 1, "CPUExecutionProvider")
    assert session.run(None, {"x": inputs})[0] == pytest.approx(EXPECTED)


def test_devices_compute_them_exactly(model, inputs):
    assert load(model, {}).run(inputs)["y"] == pytest.approx(EXPECTED)


@pytest.mark.parametrize("opened", ["check", "engine", "device", "layers", "side"])
def test_every_session_asks_for_it(model, inputs, monkeypatch, opened):
    asked = []
    whole = onnxruntime.InferenceSession

    def watched(content, options, **others):
        asked.append(options.get_session_config_entry("session.x64quantprecision"))
        return whole(content, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watched)
    {
        "check": lambda: run_onnx(model.read_bytes(), inputs, batch=1),
        "engine": lambda: _session(model, 1, "CPUExecutionProvider"),
        "device": lambda: load(model, {}),
        "layers": lambda: ort_layers(model, {"x": inputs}, threads=1, runs=1),
        "side": lambda: OnnxSide(onnx.load(str(model)), "int8").values(["y"], {"x": inputs}),
    }[opened]()
    assert asked == ["1"]
