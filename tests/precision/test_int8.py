import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import edgekd
from edgekd.core.artifacts import FileRef
from edgekd.core.errors import ConfigError, DataError, ExportError, PreconditionError, StorageError
from edgekd.export import parity, read_content, read_proto, run_onnx
from edgekd.precision import calibrated, int8, quantized_ops, to_int8, write_int8

SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.precision import to_int8
source, folder = Path(sys.argv[1]), Path(sys.argv[2])
model = OnnxModel(FileRef.of(source), "fp32", "any", 17, "input", (3, 8, 8), "logits", 0)
calibration = np.load(sys.argv[3])
for flavour in ("cpu", "tensorrt"):
    to_int8(model, folder / f"{flavour}.onnx", calibration=calibration, flavour=flavour)
"""


@pytest.fixture(scope="module")
def quantised(model, calibration, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    return {
        flavour: to_int8(model, folder / f"{flavour}.onnx", calibration=calibration, flavour=flavour)
        for flavour in ("cpu", "tensorrt")
    }


@pytest.mark.parametrize("flavour", ["cpu", "tensorrt"])
def test_int8_quantises_every_weighted_layer(model, quantised, flavour):
    result = quantised[flavour]
    report = quantized_ops(result)
    assert (result.precision, result.flavour, result.opset, result.batch) == ("int8", flavour, 17, 0)
    assert result.parents == (model.digest,)
    assert (report.weighted, report.quantized, report.per_channel, report.floating) == (4, 4, 4, ())
    assert (report.residual_adds, report.quantized_adds) == (2, 2)
    assert report.weight_types == ("int8",)
    assert [(item.domain, item.version) for item in read_proto(result).opset_import] == [("", 17)]


def test_int8_for_cpu_has_unsigned_asymmetric_activations_and_float_logits(quantised):
    report = quantized_ops(quantised["cpu"])
    assert (report.activation_types, report.is_symmetric, report.quantized_biases) == (("uint8",), False, 4)
    graph = read_proto(quantised["cpu"]).graph
    assert next(node.op_type for node in graph.node if "logits" in node.output) == "Gemm"
    assert quantised["cpu"].file.size_bytes > 0


def test_int8_for_tensorrt_is_symmetric_with_float_biases(quantised):
    report = quantized_ops(quantised["tensorrt"])
    assert (report.activation_types, report.is_symmetric, report.quantized_biases) == (("int8",), True, 0)


def test_int8_for_tensorrt_puts_nothing_between_convolution_and_relu_or_add_and_relu(quantised):
    graph = read_proto(quantised["tensorrt"]).graph
    sources = {name: node for node in graph.node for name in node.output}
    before = [sources[node.input[0]].op_type for node in graph.node if node.op_type == "Relu"]
    assert sorted(before) == ["Add", "Add", "Conv"]
    assert all(len(node.input) == 3 for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear"))


def test_int8_for_tensorrt_keeps_float_weights_behind_a_pair(quantised):
    graph = read_proto(quantised["tensorrt"]).graph
    sources = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for conv in (node for node in graph.node if node.op_type == "Conv"):
        quantize = sources[sources[conv.input[1]].input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert constants[quantize.input[0]].data_type == onnx.TensorProto.FLOAT


@pytest.fixture(scope="module")
def newer_model(exported, net):
    """The reference evaluator implements Q/DQ from opset 19 on."""
    return exported(net, opset=20)


@pytest.mark.parametrize("flavour", ["cpu", "tensorrt"])
def test_int8_stays_close_to_torch_on_two_independent_runtimes(net, newer_model, calibration, tmp_path, flavour):
    result = to_int8(newer_model, tmp_path / "m.onnx", calibration=calibration, flavour=flavour)
    assert result.opset == 20
    assert parity(net, result, calibration, tolerance=0.1).is_ok
    with torch.no_grad():
        expected = net(torch.from_numpy(calibration)).numpy()
    found = ReferenceEvaluator(read_proto(result)).run(None, {"input": calibration})[0]
    scale = np.sqrt((expected**2).mean())
    assert 1e-5 * scale < np.abs(found - expected).max() < 0.1 * scale


def convolved(images, weight, bias):
    size = images.shape[2] - 2
    total = np.zeros((len(images), len(weight), size, size))
    for row in range(3):
        for column in range(3):
            window = images[:, :, row : row + size, column : column + size]
            total += np.einsum("bchw,kc->bkhw", window, weight[:, :, row, column])
    return total + bias[None, :, None, None]


def test_int8_for_tensorrt_equals_hand_made_quantisation(one_conv, one_conv_model, calibration, tmp_path):
    """Symmetric: scale = largest magnitude / 127, zero point 0; weights for each output channel."""
    result = to_int8(one_conv_model, tmp_path / "m.onnx", calibration=calibration, flavour="tensorrt")
    weight, bias = one_conv.conv.weight.detach().numpy(), one_conv.conv.bias.detach().numpy()
    normalised = (calibration - np.float32(0.3)) / np.float32(0.25)
    scale = np.abs(normalised).max() / 127
    scales = np.abs(weight).reshape(4, -1).max(axis=1) / 127
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in read_proto(result).graph.initializer}
    found = {len(value.shape): value for name, value in held.items() if name.endswith("_scale")}
    np.testing.assert_allclose(found[0], scale, rtol=1e-6)
    np.testing.assert_allclose(found[1], scales, rtol=1e-6)
    inputs = np.clip(np.round(normalised / scale), -128, 127) * scale
    weights = np.round(weight / scales[:, None, None, None]) * scales[:, None, None, None]
    expected = convolved(inputs, weights, bias).mean(axis=(2, 3))
    logits = run_onnx(read_content(result), calibration, batch=8)
    np.testing.assert_allclose(logits, expected, atol=2e-4)
    assert np.abs(convolved(normalised, weight, bias).mean(axis=(2, 3)) - expected).max() > 1e-3


def test_int8_for_cpu_has_the_scales_and_zero_points_worked_out_by_hand(
    one_conv, one_conv_model, calibration, tmp_path
):
    """Asymmetric uint8: scale = (max - min) / 255, zero point = round(-min / scale)."""
    result = to_int8(one_conv_model, tmp_path / "m.onnx", calibration=calibration, flavour="cpu")
    normalised = (calibration - np.float32(0.3)) / np.float32(0.25)
    scale = (float(normalised.max()) - float(normalised.min())) / 255
    graph = read_proto(result).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    sources = {name: node for node in graph.node for name in node.output}
    conv = next(node for node in graph.node if node.op_type == "Conv")
    dequantize = sources[conv.input[0]]
    np.testing.assert_allclose(held[dequantize.input[1]], scale, rtol=1e-6)
    assert held[dequantize.input[2]] == np.round(-float(normalised.min()) / scale)
    assert held[dequantize.input[2]].dtype == np.uint8
    weight_scales = held[sources[conv.input[1]].input[1]]
    weight = one_conv.conv.weight.detach().numpy()
    np.testing.assert_allclose(weight_scales, np.abs(weight).reshape(4, -1).max(axis=1) / 127, rtol=1e-6)


def test_int8_uses_every_calibration_image(one_conv_model, calibration, tmp_path):
    """The extreme pixel is in the last image: a reader that drops the tail gives a smaller range."""
    dim = 0.25 + calibration / 4
    dim[-1, 0, 0, 0] = 1.0
    result = to_int8(one_conv_model, tmp_path / "m.onnx", calibration=dim, flavour="tensorrt")
    scales = [
        numpy_helper.to_array(item) for item in read_proto(result).graph.initializer if item.name.endswith("scale")
    ]
    np.testing.assert_allclose(next(item for item in scales if item.ndim == 0), 0.7 / 0.25 / 127, rtol=1e-6)


def test_int8_gives_the_same_bytes_in_another_process_and_is_quiet(model, quantised, calibration, tmp_path):
    script = tmp_path / "quantise.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONHASHSEED": "99", "PYTHONPATH": str(Path(edgekd.__file__).parents[1])}
    np.save(tmp_path / "calibration.npy", calibration)
    command = [sys.executable, str(script), model.file.path, str(tmp_path), str(tmp_path / "calibration.npy")]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (other.returncode, other.stdout, other.stderr) == (0, "", "")
    for flavour, result in quantised.items():
        assert (tmp_path / f"{flavour}.onnx").read_bytes() == read_content(result)


def test_int8_works_with_a_fixed_batch_that_does_not_divide_the_images(
    exported, one_conv, one_conv_model, calibration, tmp_path
):
    fixed = exported(one_conv, batch=7)
    result = to_int8(fixed, tmp_path / "fixed.onnx", calibration=calibration, flavour="tensorrt")
    dynamic = to_int8(one_conv_model, tmp_path / "dynamic.onnx", calibration=calibration, flavour="tensorrt")
    assert result.batch == 7
    expected = run_onnx(read_content(dynamic), calibration, batch=8)
    np.testing.assert_allclose(run_onnx(read_content(result), calibration, batch=7), expected, atol=1e-5)


class ConstantAdd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shift = nn.Conv2d(3, 4, 3), nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.relu(self.conv(images)) + self.shift).mean((2, 3))


def test_int8_for_tensorrt_leaves_adds_of_constants_alone(exported, calibration, tmp_path):
    result = to_int8(exported(ConstantAdd()), tmp_path / "m.onnx", calibration=calibration, flavour="tensorrt")
    report = quantized_ops(result)
    assert (report.residual_adds, report.quantize_nodes, report.dequantize_nodes) == (0, 2, 2)


def test_int8_refuses_a_network_without_weights(exported, calibration, tmp_path):
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for flavour in ("cpu", "tensorrt"):
        with pytest.raises(ExportError, match="no Conv, Gemm or MatMul"):
            to_int8(exported(net), tmp_path / "m.onnx", calibration=calibration, flavour=flavour)
    assert list(tmp_path.iterdir()) == []


def quantised_linear(*, activation_zero=0, activation_scale=0.1, bias=True, weight_scales=4, kind=np.int8):
    """A Gemm with Q/DQ on its input and weight, to be spoilt in one way."""
    names = ["x_dq", "w_dq"] + (["b"] if bias is True else ["b_dq"] if bias else [])
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["w_dq"], axis=0),
        helper.make_node("DequantizeLinear", ["bi", "s", "bz"], ["b_dq"]),
        helper.make_node("Gemm", names, ["y"], transB=1, name="linear"),
    ]
    channels = (weight_scales,) if weight_scales else ()
    constants = {
        "s": np.float32(activation_scale),
        "z": kind(activation_zero),
        "w": np.ones((4, 4), np.int8),
        "ws": np.ones(channels, np.float32),
        "wz": np.zeros(channels, np.int8),
        "b": np.zeros(4, np.float32),
        "bi": np.zeros(4, np.int32),
        "bz": np.int32(0),
    }
    tensors = [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))


def test_int8_check_accepts_a_good_graph_for_tensorrt():
    int8.require_quantised(quantised_linear(), "tensorrt")


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ({"bias": "int32"}, "1 biases are int32"),
        ({"activation_zero": 3}, "must be symmetric int8, found int8, int8, zero points at 0: False"),
        ({"kind": np.uint8}, "must be symmetric int8, found uint8, int8"),
        ({"weight_scales": 0}, "0 of 1 weights have a scale for each channel"),
        ({"activation_scale": 0.0}, "not positive and finite: s"),
        ({"activation_scale": np.nan}, "not positive and finite: s"),
    ],
)
def test_int8_check_refuses_what_tensorrt_cannot_take(spoilt, message):
    with pytest.raises(ExportError, match=message):
        int8.require_quantised(quantised_linear(**spoilt), "tensorrt")


def test_int8_check_names_layers_left_in_float(model):
    with pytest.raises(ExportError, match=r"4 of 4 layers stay float: .*stem/Conv.*0 of 2 residual Adds"):
        int8.require_quantised(read_proto(model), "tensorrt")


def test_int8_refuses_an_unusable_calibration_set(model, calibration, tmp_path):
    with pytest.raises(DataError, match="there are 8 inputs"):
        to_int8(model, tmp_path / "m.onnx", calibration=calibration[:8], flavour="cpu")
    with pytest.raises(DataError, match=r"float32 \[n, 3, 8, 8\]"):
        to_int8(model, tmp_path / "m.onnx", calibration=calibration[..., :4], flavour="cpu")
    assert list(tmp_path.iterdir()) == []


def test_int8_refuses_other_sources_and_flavours(model, quantised, calibration, tmp_path):
    with pytest.raises(ConfigError, match="not int8 at opset 17"):
        to_int8(quantised["cpu"], tmp_path / "m.onnx", calibration=calibration, flavour="cpu")
    with pytest.raises(ConfigError, match="unknown int8 flavour 'gpu'; known: cpu, tensorrt"):
        to_int8(model, tmp_path / "m.onnx", calibration=calibration, flavour="gpu")


def test_int8_names_the_extra_when_onnxruntime_is_missing(model, calibration, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PreconditionError, match=r"edgekd\[cpu\]"):
        to_int8(model, tmp_path / "m.onnx", calibration=calibration, flavour="cpu")


def test_int8_leaves_nothing_half_written(model, calibration, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        to_int8(model, tmp_path / "file" / "m.onnx", calibration=calibration, flavour="tensorrt")

    def failing(*args, **kwargs):
        raise ValueError("no such tensor")

    monkeypatch.setattr("onnxruntime.quantization.qdq_quantizer.QDQQuantizer.quantize_model", failing)
    with pytest.raises(ExportError, match="cannot quantise the model for cpu: no such tensor"):
        to_int8(model, tmp_path / "m.onnx", calibration=calibration, flavour="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def activation_scales(model):
    graph = read_proto(model).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    constants = set(held)
    nodes = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in constants]
    return {node.input[0]: float(held[node.input[1]]) for node in nodes}


@pytest.fixture(scope="module")
def outlying(calibration):
    """One pixel of 49,152 is bright, all others below 0.5: more than the percentile calibrator keeps."""
    images = np.concatenate([calibration] * 8)[:256] / 2
    images[5, 0, 0, 0] = 1.0
    return images


@pytest.mark.parametrize("calibrator", ["min-max", "entropy", "percentile"])
@pytest.mark.parametrize("flavour", ["cpu", "tensorrt"])
def test_int8_ranges_follow_the_calibrator(one_conv_model, outlying, tmp_path, calibrator, flavour):
    result = to_int8(one_conv_model, tmp_path / "m.onnx", calibration=outlying, flavour=flavour, calibrator=calibrator)
    normalised = np.sort(((outlying - np.float32(0.3)) / np.float32(0.25)).ravel())
    low, high = normalised[0], normalised[-1]
    whole = max(-low, high) / 127 if flavour == "tensorrt" else (high - low) / 255
    scale = next(iter(activation_scales(result).values()))
    if calibrator == "min-max":
        np.testing.assert_allclose(scale, whole, rtol=1e-6)
    else:
        assert 0.2 * whole < scale < 0.8 * whole
    assert parity_note(result).startswith("percentile 99.99 over" if calibrator == "percentile" else calibrator)


def parity_note(model):
    return next(item.value for item in read_proto(model).metadata_props if item.key == "edgekd.calibration")


def test_percentile_keeps_all_but_one_value_in_ten_thousand(one_conv_model, calibration, tmp_path):
    """256 pictures of 192 pixels: five values of 49,152 lie above the threshold, by numpy's own percentile."""
    images = np.concatenate([calibration] * 8)[:256]
    result = to_int8(
        one_conv_model, tmp_path / "m.onnx", calibration=images, flavour="tensorrt", calibrator="percentile"
    )
    magnitudes = np.abs((images - np.float32(0.3)) / np.float32(0.25))
    expected = np.percentile(magnitudes, 99.99) / 127
    np.testing.assert_allclose(next(iter(activation_scales(result).values())), expected, rtol=5e-3)


def test_int8_refuses_unknown_calibrators_and_layers(model, calibration, tmp_path):
    with pytest.raises(ConfigError, match="unknown calibrator 'minmax'; did you mean min-max"):
        to_int8(model, tmp_path / "m.onnx", calibration=calibration, flavour="cpu", calibrator="minmax")
    ready = calibrated(model, calibration=calibration, flavour="cpu")
    with pytest.raises(ConfigError, match="no node with weights is named nope; there are stem/Conv"):
        write_int8(ready, tmp_path / "m.onnx", kept_float=["nope"])
    with pytest.raises(ConfigError, match="every layer would be kept in float"):
        write_int8(ready, tmp_path / "m.onnx", kept_float=ready.layers)


@pytest.mark.parametrize("flavour", ["cpu", "tensorrt"])
def test_int8_keeps_the_layers_asked_for_in_float_and_says_so(model, calibration, tmp_path, flavour):
    ready = calibrated(model, calibration=calibration, flavour=flavour)
    assert len(ready.layers) == 4
    result = write_int8(ready, tmp_path / "m.onnx", kept_float=["first/Conv"])
    report = quantized_ops(result)
    assert (report.floating, report.quantized, report.per_channel) == (("first/Conv",), 3, 3)
    notes = {item.key: item.value for item in read_proto(result).metadata_props}
    assert notes["edgekd.float_layers"] == '["first/Conv"]'
    whole = write_int8(ready, tmp_path / "all.onnx")
    assert quantized_ops(whole).floating == ()
    assert read_content(whole) == read_content(
        to_int8(model, tmp_path / "again.onnx", calibration=calibration, flavour=flavour)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_int8_names_the_node_of_weights_that_are_not_finite(model, calibration, tmp_path, value):
    proto = read_proto(model)
    tensor = next(item for item in proto.graph.initializer if item.name == "first.weight")
    weights = numpy_helper.to_array(tensor).copy()
    weights[0, 0, 0, :2] = value
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    path = tmp_path / "bad.onnx"
    onnx.save(proto, path)
    bad = dataclasses.replace(model, file=FileRef.of(path))
    with pytest.raises(ExportError, match=r"2 of 576 values of 'first.weight', read by node 'first/Conv' \(Conv\)"):
        to_int8(bad, tmp_path / "m.onnx", calibration=calibration, flavour="cpu")


def test_int8_names_a_node_of_another_domain_and_what_to_do(model, calibration, tmp_path):
    proto = read_proto(model)
    next(node for node in proto.graph.node if node.op_type == "Relu").domain = "com.example"
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(proto, tmp_path / "foreign.onnx")
    foreign = dataclasses.replace(model, file=FileRef.of(tmp_path / "foreign.onnx"))
    with pytest.raises(ExportError, match=r"node '.*Relu' is com\.example\.Relu.*by standard operators"):
        to_int8(foreign, tmp_path / "m.onnx", calibration=calibration, flavour="tensorrt")
