"""The texts below were printed by TensorRT-RTX 1.7.1 for a small int8 network; some layers were left out."""

import pytest

from edgekd.core.errors import BuildError
from edgekd.engine.tensorrt_rtx import fusion_from_log, io_tensors_from_log

SHAPE = (
    "Name: __mye451_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 0, Metadata: "
)
CONV = (
    "Name: conv0_myl0_2, LayerType: correlation, Inputs: [ { Name: __mye1090c0_before_bias.1_10_myl0, Dimensions: "
    "[-1,4,16,16], Strides: [1024,1,64,4], StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format "
    "}], Constants: [ { Name: __mye1988_dconst_myl0, Dimensions: [8,4,3,3], Strides: [36,1,12,4], StrideOrder: "
    "[3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }, { Name: __mye1293dconst_myl0, Dimensions: "
    "[1,8,1,1], Strides: [8,1,8,8], StrideOrder: [3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], "
    "Outputs: [ { Name: __myln_k_arg__bb1_11_myl0, Dimensions: [-1,8,8,8], Strides: [512,1,64,8], StrideOrder: "
    "[3,0,2,1], Datatype: Float, Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, "
    "Metadata: [ONNX Layer: conv0][ONNX Layer: node_of_dq0][ONNX Layer: conv0]"
)
FC = (
    "Name: __myl_FcAdd_myl0_6, LayerType: runtime_fusion, Inputs: [ { Name: g.1_myl0, Dimensions: [-1,16], Strides: "
    "[16,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) Row major linear format }], Constants: [ { Name: "
    "__mye1049_dconst_myl0, Dimensions: [1,10], Strides: [10,1], StrideOrder: [1,0], Datatype: Half, Format: (Linear) "
    "Row major linear format }], Outputs: [ { Name: logits, Dimensions: [-1,10], Strides: [10,1], StrideOrder: [1,0], "
    "Datatype: Float, Format: (Linear) Row major linear format }], TacticName: , StreamId: 0, "
    "Metadata: [ONNX Layer: fc]"
)
TENSORS = (
    "\nI/O Tensors:\n Name: input, IOMode: Input, DataType: Float, Dimensions: [-1,3,16,16], Location: Device, "
    "IsShapeInferenceIO: false, ProfileInfo: [ { MinShape: [1,3,16,16], OptShape: [2,3,16,16], MaxShape: [8,3,16,16], "
    "Format: Row major linear FP32 format (kLINEAR) }]\n Name: logits, IOMode: Output, DataType: Half, Dimensions: "
    "[-1,10], Location: Device, IsShapeInferenceIO: false, ProfileInfo: [ { Format: Row major linear FP16 format "
    "(kLINEAR) }]\n\nEngine Metadata:\n Multi-Device: Disabled"
)
SIGNAL = (
    "Name: __mye9688_myl0_4, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, "
    "EventId: 1, Metadata:"
)
JUMP = (
    "Name: clp___mye1890_myl0_149, LayerType: cjmp, Inputs: [ { Name: __mye6240_phi_myl0, Dimensions: [1], Strides: "
    "[1], StrideOrder: [0], Datatype: Int32, Format: (Linear) Row major linear format }], Constants: [], Outputs: [], "
    "TacticName: , StreamId: 0, JumpTargetThen: start^bb^wait^stream1_myl0_65, JumpTargetElse: "
    "start^bb^wait^stream1_myl0_150, Metadata: "
)
LAYERS = "\n".join(["Layers:", SHAPE, CONV, FC, TENSORS])
MESSAGES = [
    "Parsing node: conv0 [Conv]",
    "Total Activation Memory: 8216576 bytes",
    "Total Weights Memory: 4900 bytes",
    LAYERS,
]


def test_layers_types_shapes_and_totals_are_read():
    report = fusion_from_log(MESSAGES)
    shape, conv, fc = report.layers
    assert (report.activation_bytes, report.weight_bytes) == (8216576, 4900)
    assert (shape.kind, shape.inputs, shape.constants, shape.outputs) == ("shape_call", (), (), ())
    assert (conv.name, conv.kind, conv.onnx_nodes) == ("conv0_myl0_2", "correlation", ("conv0", "node_of_dq0"))
    assert [(item.name, item.shape, item.dtype) for item in conv.inputs] == [
        ("__mye1090c0_before_bias.1_10_myl0", (-1, 4, 16, 16), "int8")
    ]
    assert [(item.shape, item.dtype) for item in conv.constants] == [((8, 4, 3, 3), "int8"), ((1, 8, 1, 1), "fp32")]
    assert conv.outputs[0].layout == "(NHWC) Channel major format"
    assert (fc.inputs[0].dtype, fc.outputs[0].name, fc.outputs[0].shape) == ("fp16", "logits", (-1, 10))
    assert report.compute_precisions == {"fp16": 1, "int8": 1}


def test_inputs_and_outputs_are_read_with_their_profile():
    source, sink = io_tensors_from_log(MESSAGES)
    assert source == {
        "name": "input",
        "mode": "input",
        "dtype": "fp32",
        "shape": [-1, 3, 16, 16],
        "min_shape": [1, 3, 16, 16],
        "opt_shape": [2, 3, 16, 16],
        "max_shape": [8, 3, 16, 16],
    }
    assert sink == {"name": "logits", "mode": "output", "dtype": "fp16", "shape": [-1, 10]}
    assert io_tensors_from_log(["nothing"]) == []


def test_totals_are_unknown_when_the_log_does_not_tell():
    report = fusion_from_log([LAYERS])
    assert (report.activation_bytes, report.weight_bytes) == (None, None)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (MESSAGES[:3], "has no list of layers"),
        (["Layers:\n"], "has no list of layers"),
        (
            [LAYERS.replace("LayerType: correlation, ", "")],
            "a layer of the builder's log is not understood: Name: conv0",
        ),
        ([LAYERS.replace("Datatype: Int8, ", "")], "a tensor of the builder's log is not understood: Name: conv0"),
    ],
)
def test_a_log_that_is_not_understood_is_refused(messages, message):
    with pytest.raises(BuildError, match=message):
        fusion_from_log(messages)


def test_unknown_types_keep_the_builders_word():
    assert fusion_from_log([LAYERS.replace("Datatype: Half", "Datatype: Posit")]).layers[2].precision == "posit"


def test_layers_of_several_streams_and_of_control_flow_are_read():
    report = fusion_from_log(["\n".join(["Layers:", SIGNAL, CONV, JUMP, FC])])
    assert report.layers_by_kind == {"cjmp": 1, "correlation": 1, "runtime_fusion": 1, "signal": 1}
    assert report.layers[2].inputs[0].dtype == "int32" and not report.layers[0].inputs
    assert report.compute_precisions == {"fp16": 1, "int8": 1}
