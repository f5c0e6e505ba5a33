from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.core.artifacts import FileRef
from edgekd.core.errors import ExportError, StorageError
from edgekd.export import Form, read_content, read_proto, write_model

FORM = Form("fp32", "any", (), {})


def flat_model(
    *, in_name="input", out_name="logits", kind=TensorProto.FLOAT, in_dims=("n", 1, 2, 2), out_dims=("n", 4)
):
    node = helper.make_node("Flatten", [in_name], [out_name], name="flatten")
    inputs = [helper.make_tensor_value_info(in_name, kind, in_dims)]
    outputs = [helper.make_tensor_value_info(out_name, kind, out_dims)]
    graph = helper.make_graph([node], "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_write_model_describes_the_graph(tmp_path):
    form = Form("int8", "cpu", ("p",), {"edgekd.note": "x"})
    model = write_model(flat_model(in_dims=(2, 1, 2, 2), out_dims=(2, 4)), tmp_path / "m.onnx", form)
    assert (model.precision, model.flavour, model.parents, model.opset) == ("int8", "cpu", ("p",), 17)
    assert (model.batch, model.input_shape) == (2, (1, 2, 2))
    assert model.file == FileRef.of(tmp_path / "m.onnx")
    keys = [entry.key for entry in read_proto(model).metadata_props]
    assert "edgekd.note" in keys
    assert keys == sorted(keys)


@pytest.mark.slow
def test_write_model_refuses_what_one_file_cannot_hold(tmp_path):
    model = flat_model()
    for name in ("a", "b"):
        weights = model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=[270_000_000])
        weights.raw_data = bytes(4 * 270_000_000)
    with pytest.raises(ExportError, match="less than 2 GiB"):
        write_model(model, tmp_path / "m.onnx", FORM)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": TensorProto.FLOAT16}, "FLOAT16"),
        ({"in_dims": ("n", 1, "h", 2), "out_dims": ("n", "k")}, "the input is"),
        ({"in_dims": ("n", 4), "out_dims": ("n", 4)}, "the input is"),
        ({"out_dims": ("m", 4)}, r"the output is FLOAT \[m, 4\]; float32 \[n, ...\] is needed"),
    ],
)
def test_write_model_refuses_other_interfaces(tmp_path, changes, message):
    with pytest.raises(ExportError, match=message):
        write_model(flat_model(**changes), tmp_path / "m.onnx", FORM)
    assert list(tmp_path.iterdir()) == []


def test_inputs_and_outputs_keep_their_names(tmp_path):
    model = write_model(flat_model(in_name="image", out_name="scores"), tmp_path / "m.onnx", FORM)
    assert (model.input_name, model.output_name) == ("image", "scores")


def test_write_model_wants_one_input_and_one_output(tmp_path):
    two_in, two_out = flat_model(), flat_model()
    two_in.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, ["n", 4]))
    with pytest.raises(ExportError, match=r"inputs \['input', 'other'\]; exactly one"):
        write_model(two_in, tmp_path / "m.onnx", FORM)
    two_out.graph.node.append(helper.make_node("Relu", ["logits"], ["more"]))
    two_out.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n", 4]))
    with pytest.raises(ExportError, match=r"returns \['logits', 'more'\]; exactly one"):
        write_model(two_out, tmp_path / "m.onnx", FORM)


def test_write_model_refuses_an_invalid_graph(tmp_path):
    proto = flat_model()
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ExportError, match="not valid ONNX"):
        write_model(proto, tmp_path / "m.onnx", FORM)


def test_read_content_refuses_a_changed_or_missing_file(tmp_path):
    model = write_model(flat_model(), tmp_path / "m.onnx", FORM)
    assert onnx.load_from_string(read_content(model)).graph.node[0].op_type == "Flatten"
    Path(model.file.path).write_bytes(b"x" * model.file.size_bytes)
    with pytest.raises(StorageError, match="changed"):
        read_content(model)
    Path(model.file.path).unlink()
    with pytest.raises(StorageError, match="cannot read"):
        read_content(model)
