"""Fixtures written by hand from the documented keys of 8.x/10.x and 11.x; no board was at hand to record them."""

import json

import pytest

from edgekd.core.errors import BuildError
from edgekd.engine.tensorrt import fusion_from_inspector


def layer(tensor):
    return {
        "Name": "conv1 + relu1",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": "x", "Location": "Device", "Dimensions": [1, 16, 8, 8], **tensor}],
        "Outputs": [{"Name": "y", "Location": "Device", "Dimensions": [1, 16, 8, 8], **tensor}],
        "ParameterType": "Convolution",
        "TacticName": "sm80_xmma_fprop",
        "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu1]",
    }


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "Row major linear BFloat16 format"}, "bf16"),
        ({"Format": "Channel major format where channel % 8 == 0", "Datatype": "Half"}, "fp16"),
        ({"Format": "Row major linear", "Datatype": "FP8"}, "fp8"),
    ],
)
def test_types_are_read_from_old_and_new_fields(tensor, dtype):
    (found,) = fusion_from_inspector(json.dumps({"Layers": [layer(tensor)], "Bindings": ["x", "y"]})).layers
    assert (found.name, found.kind, found.precision, found.is_compute) == ("conv1 + relu1", "Convolution", dtype, True)
    assert (found.inputs[0].name, found.inputs[0].shape) == ("x", (1, 16, 8, 8))
    assert found.onnx_nodes == ("conv1", "relu1")


def test_layers_without_parameters_keep_their_layer_type():
    text = json.dumps({"Layers": [{"Name": "r", "LayerType": "Reformat", "Inputs": [], "Outputs": []}]})
    (found,) = fusion_from_inspector(text).layers
    assert (found.kind, found.is_compute, found.precision) == ("Reformat", False, "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "no JSON"),
        ("[]", "no layer details"),
        ('{"Layers": []}', "no layer details"),
        ('{"Layers": ["conv1 + relu1"]}', "detailed profiling verbosity"),
        (json.dumps({"Layers": [layer({"Format": "Row major linear"})]}), "no known type for tensor 'x'"),
    ],
)
def test_output_that_proves_nothing_is_refused(text, message):
    with pytest.raises(BuildError, match=message):
        fusion_from_inspector(text)
