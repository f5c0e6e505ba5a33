"""BF16 as types and FP8 as Q/DQ: only for devices that have them, judged by evaluators that are not ours."""

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from edgekd.core.artifacts import FileRef
from edgekd.core.errors import ConfigError, DataError, ExportError, TargetError
from edgekd.export import half_tensor, read_content, read_proto, run_onnx
from edgekd.latency import graph_from_onnx, predict
from edgekd.precision import kept_fp32, require_readable, to_bf16, to_fp8
from edgekd.targets import get_target


@pytest.fixture(scope="module")
def ada():
    return get_target("rtx-4090")


@pytest.fixture(scope="module")
def orin():
    return get_target("jetson-orin")


@pytest.fixture(scope="module")
def new_model(exported, net):
    return exported(net, opset=22)


def noise(found, expected):
    return np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean())


@pytest.fixture(scope="module")
def expected(new_model, calibration):
    return run_onnx(read_content(new_model), calibration, batch=8)


def test_bf16_constants_are_rounded_to_nearest_even():
    values = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    values[:3] = [0.0, 1.00390625, 3.0e38]
    tensor = half_tensor(values.reshape(50, 100), "w", TensorProto.BFLOAT16)
    found = np.frombuffer(tensor.raw_data, np.uint16)
    np.testing.assert_array_equal(found, values.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert (list(tensor.dims), tensor.data_type) == ([50, 100], TensorProto.BFLOAT16)


def test_bf16_is_typed_and_close_by_the_reference_evaluator(new_model, calibration, expected, orin, tmp_path):
    result = to_bf16(new_model, tmp_path / "b.onnx", target=orin, inputs=calibration)
    proto = read_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    assert (result.precision, result.opset, result.parents) == ("bf16", 22, (new_model.digest,))
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    convs = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert convs
    assert all(kinds[node.input[1]] == TensorProto.BFLOAT16 for node in convs)
    assert not any("Conv" in reason or "Gemm" in reason for reason in kept_fp32(result).values())
    found = np.asarray(ReferenceEvaluator(proto).run(None, {"input": calibration})[0], np.float32)
    assert 1e-4 < noise(found, expected) < 0.05


@pytest.mark.parametrize("name", ["jetson-xavier-nx", "cpu"])
def test_bf16_and_fp8_are_refused_where_the_device_lacks_them(new_model, calibration, tmp_path, name):
    target = get_target(name)
    with pytest.raises(TargetError, match=r"has no bf16 units.*Ampere, Orin"):
        to_bf16(new_model, tmp_path / "b.onnx", target=target)
    with pytest.raises(TargetError, match=r"has no fp8 units.*Ada, Hopper, Thor"):
        to_fp8(new_model, tmp_path / "f.onnx", calibration=calibration, target=target)
    assert list(tmp_path.iterdir()) == []


def test_fp8_is_refused_on_orin_and_on_an_old_tensorrt(new_model, calibration, ada, orin, tmp_path):
    with pytest.raises(TargetError, match=r"jetson-orin \(sm_87\) has no fp8 units"):
        to_fp8(new_model, tmp_path / "f.onnx", calibration=calibration, target=orin)
    old = dataclasses.replace(ada, tensorrt="8.6")
    with pytest.raises(TargetError, match=r"TensorRT 8\.6; fp8 needs strong typing"):
        to_fp8(new_model, tmp_path / "f.onnx", calibration=calibration, target=old)


def test_old_opsets_and_other_sources_are_refused(model, new_model, calibration, ada, orin, tmp_path):
    with pytest.raises(ConfigError, match=r"from fp32 at opset 17: export with --opset 22"):
        to_bf16(model, tmp_path / "b.onnx", target=orin)
    with pytest.raises(ConfigError, match=r"from fp32 at opset 17: export with --opset 19"):
        to_fp8(model, tmp_path / "f.onnx", calibration=calibration, target=ada)
    with pytest.raises(TargetError, match=r"is opset 22, jetson-xavier-nx is given 17 at most: export it again"):
        require_readable(new_model, get_target("jetson-xavier-nx"))
    require_readable(new_model, orin)
    require_readable(model, orin)


@pytest.mark.parametrize("name", ["rtx-4090", "h200", "jetson-thor"])
def test_fp8_scales_are_those_worked_out_by_hand(new_model, one_conv, exported, calibration, tmp_path, name):
    source = exported(one_conv, opset=19)
    result = to_fp8(source, tmp_path / "f.onnx", calibration=calibration, target=get_target(name))
    proto = read_proto(result)
    onnx.checker.check_model(proto, full_check=True)
    held = {tensor.name: tensor for tensor in proto.graph.initializer}
    conv = next(node for node in proto.graph.node if node.op_type == "Conv")
    sources = {name: node for node in proto.graph.node for name in node.output}
    pairs = [sources[name] for name in conv.input[:2]]
    assert [node.op_type for node in pairs] == ["DequantizeLinear"] * 2
    assert held[pairs[0].input[2]].data_type == TensorProto.FLOAT8E4M3FN
    normalised = (calibration - np.float32(0.3)) / np.float32(0.25)
    weight = one_conv.conv.weight.detach().numpy()
    for pair, values in zip(pairs, (normalised, weight), strict=True):
        np.testing.assert_allclose(numpy_helper.to_array(held[pair.input[1]]), np.abs(values).max() / 448, rtol=1e-6)


def test_fp8_answers_are_those_of_values_rounded_by_ml_dtypes(one_conv, exported, calibration, ada, tmp_path):
    source = exported(one_conv, opset=19)
    result = to_fp8(source, tmp_path / "f.onnx", calibration=calibration, target=ada)

    def rounded(values):
        scale = np.float32(np.abs(values).max() / 448)
        return (values / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    images = rounded((calibration - np.float32(0.3)) / np.float32(0.25))
    weight, bias = rounded(one_conv.conv.weight.detach().numpy()), one_conv.conv.bias.detach().numpy()
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), axis=(2, 3))
    by_hand = np.einsum("bchwij,kcij->bkhw", windows, weight).mean((2, 3)) + bias
    found = run_onnx(read_content(result), calibration, batch=8, as_written=True)
    np.testing.assert_allclose(found, by_hand, atol=2e-4)
    reference = ReferenceEvaluator(read_proto(result)).run(None, {"input": calibration})[0]
    np.testing.assert_allclose(reference, by_hand, atol=2e-4)
    plain = run_onnx(read_content(source), calibration, batch=8)
    assert 1e-3 < noise(found, plain) < 0.2


def test_fp8_leaves_residual_additions_alone_and_shares_pairs(new_model, calibration, expected, ada, tmp_path):
    result = to_fp8(new_model, tmp_path / "f.onnx", calibration=calibration, target=ada)
    graph = read_proto(result).graph
    sources = {name: node.op_type for node in graph.node for name in node.output}
    adds = [node for node in graph.node if node.op_type == "Add"]
    assert len(adds) == 2
    assert all(sources[name] != "DequantizeLinear" for node in adds for name in node.input)
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert all(sources[name] == "DequantizeLinear" for node in layers for name in node.input[:2])
    assert noise(run_onnx(read_content(result), calibration, batch=8, as_written=True), expected) < 0.2
    again = to_fp8(new_model, tmp_path / "g.onnx", calibration=calibration, target=ada)
    assert read_content(again) == read_content(result)


def test_fp8_refuses_bad_calibration_weights_and_noise(exported, net, new_model, calibration, ada, tmp_path):
    with pytest.raises(DataError, match="there are 8 inputs"):
        to_fp8(new_model, tmp_path / "f.onnx", calibration=calibration[:8], target=ada)
    proto = read_proto(new_model)
    tensor = next(item for item in proto.graph.initializer if item.name == "first.weight")
    weights = numpy_helper.to_array(tensor).copy()
    weights[0, 0, 0, 0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(proto, tmp_path / "nan.onnx")
    bad = dataclasses.replace(new_model, file=FileRef.of(tmp_path / "nan.onnx"))
    for convert in (
        lambda: to_fp8(bad, tmp_path / "f.onnx", calibration=calibration, target=ada),
        lambda: to_bf16(bad, tmp_path / "f.onnx", target=ada),
    ):
        with pytest.raises(ExportError, match=r"1 of 576 values of 'first.weight', read by node 'first/Conv'"):
            convert()


def test_neither_is_predicted(new_model, ada, model):
    graph = graph_from_onnx(Path(model.file.path))
    for precision in ("bf16", "fp8"):
        with pytest.raises(TargetError, match=f"{precision} was never measured on any device"):
            predict(graph, ada, precision)


def test_a_rectified_input_is_rectified_before_it_is_rounded_to_fp8(exported, calibration, ada, tmp_path):
    """ONNX Runtime drops such a Relu unless the graph is run as it is written."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    source = exported(net, opset=19)
    result = to_fp8(source, tmp_path / "f.onnx", calibration=calibration, target=ada)
    reference = ReferenceEvaluator(read_proto(result)).run(None, {"input": calibration})[0]
    found = run_onnx(read_content(result), calibration, batch=8, as_written=True)
    np.testing.assert_allclose(found, reference, atol=1e-5)
