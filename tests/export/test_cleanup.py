import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgekd.export.cleanup import cleaned, strip_metadata


def note(part, key="pkg.torch.onnx.stack_trace", value="File somewhere.py"):
    entry = part.metadata_props.add()
    entry.key, entry.value = key, value


def raw_model():
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], name="node_1", allowzero=1),
        helper.make_node("Gemm", ["flat", "net.fc.weight"], ["a"], name="node_2"),
        helper.make_node("Relu", ["a"], ["b"], name="node_3"),
        helper.make_node("Neg", ["b"], ["c"], name="node_4"),
        helper.make_node("Relu", ["c"], ["y"], name="node_5"),
    ]
    for node in nodes:
        note(node)
    for index in (2, 4):
        note(nodes[index], "pkg.torch.onnx.name_scopes", "['', 'net', 'net.act', 'relu']")
    tensors = [
        numpy_helper.from_array(np.array([-1, 4]), "shape"),
        numpy_helper.from_array(np.ones((4, 2), np.float32), "net.fc.weight"),
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2, 2])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph(nodes, "g", [value], [result], tensors, doc_string="graph doc")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, doc_string="model doc")
    for part in (model, graph, model.graph.input[0], model.graph.output[0], model.graph.initializer[0], model.graph):
        note(part)
    model.graph.node[0].doc_string = "node doc"
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, ["n", 2]))
    return model


def test_strip_metadata_leaves_only_the_computation():
    model = raw_model()
    strip_metadata(model)
    text = str(model)
    assert "metadata_props" not in text
    assert ' doc"' not in text
    assert "value_info" not in text
    assert [entry.domain for entry in model.opset_import] == [""]
    assert len(model.graph.node) == 5


def test_cleaned_names_nodes_after_weights_then_modules_then_operators():
    names = [node.name for node in cleaned(raw_model()).graph.node]
    assert names == ["Reshape", "net.fc/Gemm", "net.act/Relu", "Neg", "net.act/Relu_2"]


def test_cleaned_drops_attributes_that_change_nothing():
    reshape = next(node for node in cleaned(raw_model()).graph.node if node.op_type == "Reshape")
    assert not reshape.attribute
    kept = raw_model()
    kept.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([0, 4]), "shape"))
    reshape = next(node for node in cleaned(kept).graph.node if node.op_type == "Reshape")
    assert [(item.name, item.i) for item in reshape.attribute] == [("allowzero", 1)]


def test_cleaned_leaves_no_metadata():
    assert "metadata_props" not in str(cleaned(raw_model()))
