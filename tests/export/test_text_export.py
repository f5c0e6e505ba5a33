"""A network of texts as ONNX: one int64 input, the same answers, and what is refused."""

import dataclasses

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from edgekd.core.errors import BuildError, DataError, ExportError
from edgekd.data import Task
from edgekd.engine import BACKENDS, BuildOptions
from edgekd.export import Form, export_onnx, parity, random_inputs, run_onnx, write_model
from edgekd.models import build, parse_net, spec_for
from edgekd.targets import get_target

pytest.importorskip("transformers", reason="extra 'text' is not installed")

LENGTH, VOCABULARY = 9, 40


def make_net(seed=0):
    family, choice = parse_net("bert2-w64")
    facts = {"in_channels": 0, "num_classes": 3, "resolution": LENGTH, "mean": (), "std": (), "vocabulary": VOCABULARY}
    torch.manual_seed(seed)
    net = build(spec_for(family, **choice, **facts))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


@pytest.fixture(scope="module")
def net():
    return make_net()


@pytest.fixture(scope="module")
def model(net, tmp_path_factory):
    return export_onnx(net.train(), tmp_path_factory.mktemp("text") / "net.onnx", input_shape=(LENGTH,))


@pytest.fixture
def texts():
    numbers = np.random.default_rng(0).integers(1, VOCABULARY, (6, LENGTH))
    return np.where(np.arange(LENGTH) < np.array([[9], [1], [4], [7], [2], [9]]), numbers, 0)


def test_the_file_has_one_int64_input_and_knows_its_vocabulary(model):
    assert (model.input_shape, model.vocabulary, model.batch) == ((LENGTH,), VOCABULARY, 0)
    proto = onnx.load(model.file.path)
    (given,) = proto.graph.input
    dims = given.type.tensor_type.shape.dim
    assert given.type.tensor_type.elem_type == TensorProto.INT64
    assert [dims[0].dim_param, dims[1].dim_value] == ["batch", LENGTH]
    assert next(entry.value for entry in proto.metadata_props if entry.key == "edgekd.input").startswith("int64 [B, L]")
    operators = {node.op_type for node in proto.graph.node}
    assert operators <= {
        *("Gather", "Add", "Equal", "Where", "Unsqueeze", "LayerNormalization", "MatMul", "Reshape", "Transpose"),
        *("Mul", "Softmax", "Div", "Erf", "Gemm"),
    }


def test_parity_holds_on_real_and_random_texts_of_every_length(net, model, texts):
    report = parity(net, model, texts, task=Task("classification", ("a", "b", "c")))
    assert report.is_ok and report.agreement == 1.0
    assert report.n == 3 * (6 + 16)
    drawn = random_inputs(model, 200, seed=1)
    assert (drawn.dtype, drawn.shape) == (np.int64, (200, LENGTH))
    lengths = (drawn > 0).sum(axis=1)
    assert set(lengths) == set(range(1, LENGTH + 1)) and drawn.max() == VOCABULARY - 1
    assert all((row[:length] > 0).all() for row, length in zip(drawn, lengths, strict=True))


def test_parity_notices_a_mask_that_is_not_there(net, model, texts):
    graph = onnx.load(model.file.path)
    (masking,) = [node for node in graph.graph.node if node.op_type == "Where"]
    (constant,) = [tensor for tensor in graph.graph.initializer if tensor.name == masking.input[1]]
    constant.CopyFrom(onnx.numpy_helper.from_array(np.zeros(constant.dims, np.float32), constant.name))
    answers = run_onnx(graph.SerializeToString(), texts, batch=6)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(texts)).numpy()
    is_full = (texts > 0).all(axis=1)
    np.testing.assert_allclose(answers[is_full], expected[is_full], rtol=1e-4, atol=1e-4)
    assert np.abs(answers - expected)[~is_full].max(axis=1).min() > 1e-2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda texts: texts.astype(np.float32), r"takes int64 \[n, 9\], got float32"),
        (lambda texts: texts[:, :8], r"got int64 \[6, 8\]"),
        (lambda texts: texts + VOCABULARY, "tokens run from 40 to .*, the network knows 0..39"),
        (lambda texts: texts[:0], r"got int64 \[0, 9\]"),
    ],
)
def test_other_inputs_are_refused(net, model, texts, change, message):
    with pytest.raises(DataError, match=message):
        parity(net, model, change(texts))


def test_onnx_runtime_takes_tokens_and_nothing_else(net, model, texts, tmp_path):
    backend = BACKENDS["onnxruntime"]
    engine = backend.build(model, tmp_path / "engine", BuildOptions(get_target("cpu")))
    with backend.open(engine) as runner:
        with torch.no_grad():
            expected = net.eval()(torch.from_numpy(texts)).numpy()
        np.testing.assert_allclose(runner.run(texts), expected, rtol=1e-4, atol=1e-4)
        with pytest.raises(DataError, match="takes int64 token numbers, not float32"):
            runner.run(texts.astype(np.float32))
        with pytest.raises(DataError, match=r"shape \[1.., 9\], not \[6, 8\]"):
            runner.run(texts[:, :8])


def test_an_older_parser_is_refused(net, tmp_path):
    with pytest.raises(ExportError, match="LayerNormalization.*needs opset 17"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=(LENGTH,), opset=13)
    assert not list(tmp_path.iterdir())


def test_integers_that_look_nothing_up_are_refused(tmp_path):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Cast", ["input"], ["logits"], to=TensorProto.FLOAT)],
        "cast",
        [value("input", TensorProto.INT64, ["batch", 3])],
        [value("logits", TensorProto.FLOAT, ["batch", 3])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ExportError, match="looks nothing up"):
        write_model(proto, tmp_path / "net.onnx", Form("fp32", "any", (), {}))


def test_a_model_that_is_not_as_described_is_refused(model, tmp_path):
    wrong = dataclasses.replace(model, vocabulary=0)
    with pytest.raises(BuildError, match="'input' is not float32"):
        BACKENDS["onnxruntime"].build(wrong, tmp_path / "engine", BuildOptions(get_target("cpu")))
