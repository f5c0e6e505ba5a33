"""Lower precisions of a network of texts: close to fp32 on texts of every length, the attention mask kept in float."""

import numpy as np
import onnx
import pytest
import torch

from edgekd.core.errors import DataError
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.export import export_onnx, fp16_rounded, random_inputs, read_proto, run_onnx
from edgekd.models import build, parse_net, spec_for
from edgekd.precision import kept_fp32, quantized_ops, to_fp16, to_int8
from edgekd.targets import get_target

pytest.importorskip("transformers", reason="extra 'text' is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


@pytest.fixture(scope="module")
def model(folder):
    family, choice = parse_net("bert2-w64")
    torch.manual_seed(0)
    net = build(spec_for(family, **choice, in_channels=0, num_classes=3, resolution=9, mean=(), std=(), vocabulary=40))
    for name, parameter in net.named_parameters():
        if "LayerNorm" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    return export_onnx(net, folder / "net.onnx", input_shape=(9,))


@pytest.fixture(scope="module")
def texts(model):
    return random_inputs(model, 300, seed=1)


def _error(content, model, texts):
    expected = run_onnx(read_proto(model).SerializeToString(), texts, batch=64)
    found = run_onnx(content, texts, batch=64)
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def test_fp16_stays_close_with_softmax_and_norms_in_fp32(model, texts, folder):
    half = to_fp16(model, folder / "fp16.onnx", inputs=texts)
    assert (half.input_shape, half.vocabulary) == ((9,), 40)
    assert {name.rpartition("/")[2].partition("_")[0] for name in kept_fp32(half)} == {"Softmax", "LayerNormalization"}
    assert _error(fp16_rounded(read_proto(half)).SerializeToString(), model, texts) < 5e-3
    with pytest.raises(DataError, match="fp16 cannot be checked: tokens run"):
        to_fp16(model, folder / "no.onnx", inputs=texts + 40)


@pytest.mark.parametrize("flavour", ["cpu", "tensorrt"])
def test_int8_quantises_every_product_with_weights_and_stays_close(model, texts, folder, flavour):
    small = to_int8(model, folder / f"{flavour}.onnx", calibration=random_inputs(model, 256, seed=2), flavour=flavour)
    report = quantized_ops(small)
    assert report.weighted == report.quantized == 2 * 6 + 1
    assert (small.vocabulary, report.floating) == (40, ())
    error = _error(read_proto(small).SerializeToString(), model, texts)
    assert 1e-4 < error < 0.08
    graph = read_proto(small).graph
    made = {name: node for node in graph.node for name in node.output}
    masks = [made[node.input[0]] for node in graph.node if node.op_type == "Softmax"]
    assert [node.op_type for node in masks] == ["Add", "Add"]
    assert not any(
        made[name].op_type == "DequantizeLinear" and "where" in name for node in masks for name in node.input
    )


def test_a_mask_in_int8_would_leave_nothing_of_attention(model, texts, folder, monkeypatch):
    monkeypatch.setattr("edgekd.precision.int8.adds_before_softmax", lambda graph: set())
    wrong = to_int8(model, folder / "mask.onnx", calibration=random_inputs(model, 256, seed=2), flavour="cpu")
    assert _error(read_proto(wrong).SerializeToString(), model, texts) > 0.1


def test_int8_runs_in_integers_on_this_cpu(model, texts, folder, tmp_path):
    small = to_int8(model, folder / "run.onnx", calibration=random_inputs(model, 256, seed=2), flavour="cpu")
    backend = BACKENDS["onnxruntime"]
    engine = backend.build(small, tmp_path, BuildOptions(get_target("cpu")))
    assert engine.facts["compute_precisions"].get("int8", 0) >= 13
    with backend.open(engine) as runner:
        expected = run_onnx(onnx.load(small.file.path).SerializeToString(), texts, batch=64)
        np.testing.assert_allclose(runner.run(texts), expected, atol=1e-4)
