"""Every family becomes ONNX made of operators that TensorRT fuses, and computes the same there."""

import warnings

import numpy as np
import pytest
import torch

from edgekd.models import build, deploy, spec_for

SIMPLE = {
    "Conv",
    "Relu",
    "Add",
    "MaxPool",
    "GlobalAveragePool",
    "ReduceMean",
    "Flatten",
    "Reshape",
    "Gemm",
    "Sub",
    "Div",
}
BATCH_NORM = {"BatchNormalization"}
PADDING = {"Slice", "Pad", "Constant"}
ALLOWED = {
    ("resnet", "A"): SIMPLE | PADDING,
    ("wrn", ""): SIMPLE | BATCH_NORM,
    ("mobilenetv2", ""): SIMPLE,
    ("repvgg", ""): SIMPLE,
    ("vgg", ""): SIMPLE,
}


@pytest.mark.parametrize(("family", "shortcut"), ALLOWED)
def test_network_exports_to_plain_operators(tmp_path, family, shortcut):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    spec = spec_for(
        family,
        depth={"resnet": 8, "wrn": 10, "mobilenetv2": 7, "repvgg": 4, "vgg": 8}[family],
        width=4,
        in_channels=1,
        num_classes=3,
        resolution=8,
        mean=(0.5,),
        std=(0.25,),
        options={"shortcut": shortcut} if shortcut else {},
    )
    module = deploy(build(spec).eval())
    inputs = torch.rand(2, *spec.input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (inputs,),
            tmp_path / "net.onnx",
            dynamo=True,
            opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},),
            verbose=False,
        )
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert {node.op_type for node in graph.node} <= ALLOWED[family, shortcut]
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    images = torch.rand(5, *spec.input_shape)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, module(images).numpy(), atol=1e-5)
