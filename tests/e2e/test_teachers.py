"""Published teachers through edgekd against an ONNX graph written by hand from their checkpoints, on real images.

Nothing of edgekd takes part in the other side: the pictures are decoded with Pillow, normalised with numpy, and the
network is put together node by node with onnx.helper and run by ONNX Runtime.
"""

import io
import zipfile

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgekd.data import DataConfig, load_dataset
from edgekd.distill import evaluate, outputs_of
from edgekd.export import export_onnx, run_onnx
from edgekd.models import load_teacher

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHECKPOINTS = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
PUBLISHED = {"resnet20": 0.9173, "resnet56": 0.9339}


class HandMade:
    """A CIFAR ResNet with option-A shortcuts as ONNX nodes."""

    def __init__(self, state):
        self.state = {name.removeprefix("module."): value.numpy() for name, value in state.items()}
        self.nodes, self.initializers = [], []

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op, inputs, **attributes):
        output = f"{op}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def conv_bn(self, x, conv, bn, stride):
        weight = self.constant(f"{conv}.weight", self.state[f"{conv}.weight"])
        x = self.add("Conv", [x, weight], strides=[stride, stride], pads=[1, 1, 1, 1])
        keys = ("weight", "bias", "running_mean", "running_var")
        return self.add("BatchNormalization", [x, *(self.constant(f"{bn}.{k}", self.state[f"{bn}.{k}"]) for k in keys)])

    def block(self, x, name, stride, grow):
        shortcut = x
        if stride == 2:
            axes, steps = (
                self.constant(f"{name}.axes", np.array([2, 3])),
                self.constant(f"{name}.steps", np.array([2, 2])),
            )
            starts, ends = self.constant(f"{name}.s", np.array([0, 0])), self.constant(f"{name}.e", np.array([99, 99]))
            pads = self.constant(f"{name}.pads", np.array([0, grow // 2, 0, 0, 0, grow // 2, 0, 0]))
            shortcut = self.add("Pad", [self.add("Slice", [x, starts, ends, axes, steps]), pads])
        y = self.add("Relu", [self.conv_bn(x, f"{name}.conv1", f"{name}.bn1", stride)])
        y = self.conv_bn(y, f"{name}.conv2", f"{name}.bn2", 1)
        return self.add("Relu", [self.add("Add", [y, shortcut])])

    def model(self, blocks):
        x = self.add("Relu", [self.conv_bn("x", "conv1", "bn1", 1)])
        for stage in (1, 2, 3):
            for index in range(blocks):
                is_first = stage > 1 and index == 0
                x = self.block(x, f"layer{stage}.{index}", 2 if is_first else 1, 8 * 2 ** (stage - 1))
        x = self.add("Flatten", [self.add("GlobalAveragePool", [x])])
        weight, bias = (self.constant(f"linear.{k}", self.state[f"linear.{k}"]) for k in ("weight", "bias"))
        self.nodes.append(helper.make_node("Gemm", [x, weight, bias], ["y"], transB=1))
        shapes = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 32, 32])]
        outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", 10])]
        graph = helper.make_graph(self.nodes, "resnet", shapes, outputs, self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def pictures(shared_data):
    """The 1,000 test pictures uint8 [N, 32, 32, 3] and their labels, by Pillow alone."""
    with zipfile.ZipFile(shared_data / "images" / "cifar10_small.zip") as archive:
        names = archive.namelist()
        labels = np.frombuffer(archive.read(next(n for n in names if n.endswith("test_labels.u8"))), np.uint8)
        strips = [
            np.asarray(Image.open(io.BytesIO(archive.read(n))).convert("RGB"))
            for n in sorted(names)
            if "test/" in n and n.endswith(".webp")
        ]
    return np.concatenate(strips).reshape(-1, 32, 32, 3), labels.astype(np.int64)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_teacher_agrees_with_an_independent_onnx_evaluation(shared_data, pictures, tmp_path, name):
    checkpoint = shared_data / "teachers" / CHECKPOINTS[name]
    dataset = load_dataset(DataConfig(name="cifar-strips", path=str(shared_data / "images" / "cifar10_small.zip")))
    spec, module = load_teacher(
        name, in_channels=3, num_classes=10, resolution=32, mean=MEAN, std=STD, weights=checkpoint
    )
    images, labels = pictures
    state = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
    independent = HandMade(state).model((spec.depth - 2) // 6)
    onnx.checker.check_model(independent)
    session = onnxruntime.InferenceSession(independent.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = ((images.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
    expected = np.concatenate([session.run(None, {"x": inputs[i : i + 250]})[0] for i in range(0, 1000, 250)])

    through_edgekd = evaluate(module, dataset.test)
    assert through_edgekd.samples == len(labels) == 1000
    assert np.array_equal(dataset.test.labels, labels)
    assert through_edgekd.score == pytest.approx((expected.argmax(axis=1) == labels).mean(), abs=1e-9)
    np.testing.assert_allclose(outputs_of(module, dataset.test).numpy(), expected, atol=2e-3)
    spread = np.sqrt(PUBLISHED[name] * (1 - PUBLISHED[name]) / 1000)
    assert abs(through_edgekd.score - PUBLISHED[name]) < 3 * spread

    exported = export_onnx(module, tmp_path / "teacher.onnx", input_shape=(3, 32, 32))
    logits = run_onnx(
        (tmp_path / "teacher.onnx").read_bytes(), images[:200].astype(np.float32).transpose(0, 3, 1, 2) / 255, batch=100
    )
    assert exported.opset == 17
    np.testing.assert_allclose(logits, expected[:200], atol=2e-3)
