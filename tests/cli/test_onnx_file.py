"""ONNX files of strangers are described right or refused with a reason."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.cli.onnx_file import onnx_model_from_file, with_image_shape
from edgekd.core.errors import ConfigError


def test_open_batch_is_zero_and_facts_are_the_files(tmp_path, write_onnx):
    path = write_onnx(tmp_path / "a.onnx")
    model = onnx_model_from_file(path)
    assert (model.input_name, model.output_name, model.input_shape, model.batch) == ("in0", "out", (3, 8, 8), 0)
    assert (model.opset, model.precision, model.flavour) == (17, "fp32", "any")
    assert model.file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_fixed_batch_is_kept(tmp_path, write_onnx):
    assert onnx_model_from_file(write_onnx(tmp_path / "a.onnx", shape=(4, 3, 8, 8))).batch == 4


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path, write_onnx):
    proto = onnx.load(write_onnx(tmp_path / "a.onnx"))
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [3, 10]))
    onnx.save(proto, tmp_path / "b.onnx")
    assert onnx_model_from_file(tmp_path / "b.onnx").input_name == "in0"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"inputs": 2}, r"has 2 inputs \(in0, in1\), edgekd needs one"),
        ({"kind": TensorProto.INT64}, "input 'in0' is INT64, edgekd needs FLOAT"),
        (
            {"shape": ("B", 3, "H", "W")},
            r"\[B, 3, H, W\], edgekd needs \[B, C, H, W\].*\(--dim of edgekd build, --shape of ",
        ),
        ({"shape": ("B", 3, 8)}, r"has shape \[B, 3, 8\]"),
        ({"shape": (1, 3, 8, 8, 8)}, r"has shape \[1, 3, 8, 8, 8\]"),
    ],
)
def test_unsuitable_inputs_are_named(tmp_path, write_onnx, options, says):
    with pytest.raises(ConfigError, match=says):
        onnx_model_from_file(write_onnx(tmp_path / "a.onnx", **options))


def test_a_network_of_texts_is_described_by_its_table(tmp_path):
    value = helper.make_tensor_value_info
    table = numpy_helper.from_array(np.ones((30, 4), np.float32), "table")
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["states"]),
        helper.make_node("ReduceMean", ["states"], ["out"], axes=[1], keepdims=0),
    ]
    inputs, outputs = [value("words", TensorProto.INT64, ["B", 6])], [value("out", TensorProto.FLOAT, ["B", 4])]
    graph = helper.make_graph(nodes, "text", inputs, outputs, [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "a.onnx")
    model = onnx_model_from_file(tmp_path / "a.onnx")
    assert (model.input_shape, model.vocabulary, model.batch) == ((6,), 30, 0)
    graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "b.onnx")
    with pytest.raises(ConfigError, match=r"has shape \[B, length\].*or int64 \[B, L\] with L fixed"):
        onnx_model_from_file(tmp_path / "b.onnx")


@pytest.mark.parametrize("content", [b"", b"no model", b"\x00" * 100])
def test_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match="a.onnx is not an ONNX model"):
        onnx_model_from_file(tmp_path / "a.onnx")


def test_file_that_is_a_part_of_a_model_is_refused(tmp_path, write_onnx):
    proto = onnx.load(write_onnx(tmp_path / "a.onnx"))
    onnx.save(proto, tmp_path / "b.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ConfigError, match=r"keeps weights in other files.*b\.onnx whole\.onnx"):
        onnx_model_from_file(tmp_path / "b.onnx")
    onnx.save(onnx.load(tmp_path / "b.onnx"), tmp_path / "whole.onnx")
    assert onnx_model_from_file(tmp_path / "whole.onnx").input_shape == (3, 8, 8)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read .*absent.onnx"):
        onnx_model_from_file(tmp_path / "absent.onnx")


def test_precision_written_by_edgekd_is_believed(tmp_path, write_onnx):
    proto = onnx.load(write_onnx(tmp_path / "a.onnx"))
    helper.set_model_props(proto, {"edgekd.precision": "int8", "edgekd.flavour": "tensorrt"})
    onnx.save(proto, tmp_path / "b.onnx")
    model = onnx_model_from_file(tmp_path / "b.onnx")
    assert (model.precision, model.flavour) == ("int8", "tensorrt")


def test_precision_of_other_files_is_read_off_the_graph(tmp_path, write_onnx):
    half = onnx.load(write_onnx(tmp_path / "a.onnx"))
    half.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(half.graph.initializer[0]).astype("float16"), "w")
    )
    onnx.save(half, tmp_path / "half.onnx")
    assert onnx_model_from_file(tmp_path / "half.onnx").precision == "fp16"
    half.graph.node.append(helper.make_node("QuantizeLinear", ["x", "s"], ["q"]))
    onnx.save(half, tmp_path / "int8.onnx")
    assert onnx_model_from_file(tmp_path / "int8.onnx").precision == "int8"


def test_open_sizes_are_fixed_in_a_copy(tmp_path, write_onnx):
    source = write_onnx(tmp_path / "a.onnx", shape=("B", 3, "H", "W"))
    before = source.read_bytes()
    model = onnx_model_from_file(with_image_shape(source, (3, 16, 24), tmp_path / "b.onnx"))
    assert (model.input_shape, model.batch) == ((3, 16, 24), 0)
    assert source.read_bytes() == before


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 9)])
def test_sizes_that_contradict_the_file_are_refused(tmp_path, write_onnx, shape):
    source = write_onnx(tmp_path / "a.onnx", shape=("B", 3, "H", 8))
    with pytest.raises(ConfigError, match=r"has shape \[B, 3, H, 8\], which --shape cannot make"):
        with_image_shape(source, shape, tmp_path / "b.onnx")
