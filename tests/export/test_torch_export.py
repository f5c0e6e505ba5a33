import os
import runpy
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

import edgekd
from edgekd.core.errors import ConfigError, ExportError, StorageError
from edgekd.export import export_onnx, read_content, run_onnx, torch_export

SHAPE = (3, 8, 8)

SCRIPT = """
import hashlib, sys
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(5)
net = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(), nn.AdaptiveAvgPool2d(1),
                    nn.Flatten(), nn.Linear(4, 2))
from edgekd.export import export_onnx, read_content, run_onnx, torch_export
digest = export_onnx(net, Path(sys.argv[1]), input_shape=(3, 8, 8)).file.sha256
"""


def evaluate(path, images):
    return ReferenceEvaluator(onnx.load(path)).run(None, {"input": images})[0]


def test_export_computes_what_numpy_computes(net, model, images, oracle):
    found = evaluate(model.file.path, images)
    np.testing.assert_allclose(found, oracle(net, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opset", [13, 15, 18, 20])
def test_export_has_exactly_the_opset_asked_for(net, images, oracle, tmp_path, opset):
    model = export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE, opset=opset)
    proto = onnx.load(tmp_path / "net.onnx")
    assert model.opset == opset
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", opset)]
    onnx.checker.check_model(proto, full_check=True)
    np.testing.assert_allclose(evaluate(tmp_path / "net.onnx", images), oracle(net, images), rtol=1e-4, atol=1e-5)


def test_export_describes_itself(model):
    proto = onnx.load(model.file.path)
    assert (model.precision, model.flavour, model.opset, model.batch) == ("fp32", "any", 17, 0)
    assert (model.input_name, model.output_name, model.input_shape) == ("input", "logits", SHAPE)
    assert model.parents == ("a-parent",)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert (proto.producer_name, proto.producer_version) == ("edgekd", edgekd.__version__)
    assert facts["edgekd.precision"] == "fp32"
    assert "0..1" in facts["edgekd.input"]
    assert [dim.dim_param or dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        *SHAPE,
    ]
    assert [dim.dim_param or dim.dim_value for dim in proto.graph.output[0].type.tensor_type.shape.dim] == ["batch", 5]


def test_export_folds_batch_norm_and_drops_dropout(model):
    ops = [node.op_type for node in onnx.load(model.file.path).graph.node]
    assert ops.count("Conv") == 2
    assert not {"BatchNormalization", "Dropout", "Identity", "Constant"} & set(ops)


def test_export_has_a_fixed_batch_when_asked(net, images, oracle, tmp_path):
    model = export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE, batch=2)
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert model.batch == 2
    assert [dim.dim_value for dim in graph.input[0].type.tensor_type.shape.dim] == [2, *SHAPE]
    assert [dim.dim_value for dim in graph.output[0].type.tensor_type.shape.dim] == [2, 5]
    np.testing.assert_allclose(
        evaluate(tmp_path / "net.onnx", images[:2]), oracle(net, images[:2]), rtol=1e-4, atol=1e-5
    )


def test_export_leaves_the_network_and_the_random_state_alone(make_net, model, tmp_path):
    net = make_net().train()
    net.bn.eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}
    state = torch.get_rng_state()
    exported = export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert exported.file.sha256 == model.file.sha256


def test_export_is_quiet_and_gives_the_same_bytes_in_another_process(tmp_path, capfd, monkeypatch):
    script = tmp_path / "export.py"
    script.write_text(SCRIPT)
    root = Path(edgekd.__file__).parents[1]
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(root)}
    command = [sys.executable, str(script), str(tmp_path / "other.onnx")]
    other = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (other.returncode, other.stdout, other.stderr) == (0, "", "")
    monkeypatch.setattr(sys, "argv", ["export.py", str(tmp_path / "here.onnx")])
    with torch.random.fork_rng(devices=[]):
        runpy.run_path(str(script))
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()


def test_export_carries_no_trace_of_this_machine(model):
    content = Path(model.file.path).read_bytes()
    for trace in (b"site-packages", b"forward", str(Path.cwd()).encode(), Path(__file__).name.encode(), b".py"):
        assert trace not in content


def test_export_names_nodes_after_modules(model):
    names = [node.name for node in onnx.load(model.file.path).graph.node]
    assert {"stem/Conv", "conv/Conv", "fc/Gemm"} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("name", "value"), [("stem.weight", float("nan")), ("bn.running_var", float("inf"))])
def test_export_refuses_weights_that_are_not_finite(make_net, tmp_path, name, value):
    net = make_net()
    net.state_dict()[name].view(-1)[1] = value
    with pytest.raises(ExportError, match=f"{name} has 1 NaN or infinite values of"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_other_weight_types(make_net, tmp_path):
    with pytest.raises(ExportError, match=r"stem.weight is float64, not float32.*and \d+ more"):
        export_onnx(make_net().double(), tmp_path / "net.onnx", input_shape=SHAPE)


def test_export_refuses_weights_that_one_file_cannot_hold(net, tmp_path, monkeypatch):
    monkeypatch.setattr(torch_export, "_MOST_BYTES", 100)
    with pytest.raises(ExportError, match=r"they take \d+ bytes, one ONNX file holds less than 100"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)


class TwoInputs(nn.Module):
    def forward(self, images, masks):
        return (images * masks).flatten(1)


class OneChannel(nn.Module):
    def forward(self, images):
        assert images.shape[1] == 1
        return images.flatten(1)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Conv2d(4, 2, 3), r"does not run on an input \[3, 3, 8, 8\]"),
        (TwoInputs(), "does not run on.* TypeError.*'masks'"),
        (OneChannel(), "does not run on.* AssertionError"),
        (nn.Flatten(2), r"to \[3, 3, 64\]; \[3, K\] or \[3, K, H, W\] is needed"),
        (nn.Sequential(nn.Flatten(), nn.LSTM(192, 4)), "returns tuple"),
    ],
)
def test_export_refuses_networks_without_logits(tmp_path, net, message):
    with pytest.raises(ExportError, match=message):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)


class Overflowing(nn.Module):
    def forward(self, images):
        return torch.exp(images.flatten(1) * 1e4)


class ThreeOnly(nn.Module):
    def forward(self, images):
        return images.reshape(3, 192)


class Branching(nn.Module):
    def forward(self, images):
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


@pytest.mark.parametrize(
    ("net", "message"),
    [(Overflowing(), "not finite"), (ThreeOnly(), "exporter cannot follow"), (Branching(), "exporter cannot follow")],
)
def test_export_refuses_networks_it_cannot_follow(tmp_path, net, message):
    with pytest.raises(ExportError, match=message):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_a_batch_that_the_exporter_fixed(net, tmp_path, monkeypatch):
    traced = torch_export._traced
    monkeypatch.setattr(
        torch_export, "_traced", lambda *args, **kwargs: traced(*args, **{**kwargs, "is_dynamic": False})
    )
    with pytest.raises(ExportError, match=r"input \[3, 3, 8, 8\] where \[batch, 3, 8, 8\] was asked for"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)


def test_export_refuses_an_opset_without_the_operator(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 2))
    with pytest.raises(ExportError, match=r"LayerNormalization. needs opset 17, 15 was asked for"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE, opset=15)
    assert list(tmp_path.iterdir()) == []


def test_export_reports_every_wrong_argument_at_once(net, tmp_path):
    with pytest.raises(ConfigError, match=r"input_shape is \(3, 0, 8\).*opset is 9.*batch is -1"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=(3, 0, 8), opset=9, batch=-1)


def test_export_reports_a_path_it_cannot_write(net, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        export_onnx(net, tmp_path / "file" / "net.onnx", input_shape=SHAPE)


def test_export_reports_a_network_that_cannot_be_copied(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    net.remembered = net(torch.zeros(1, *SHAPE))
    with pytest.raises(ExportError, match="cannot be copied"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)
    net.remembered = threading.Lock()
    with pytest.raises(ExportError, match="cannot be copied"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)


def test_export_reports_whatever_the_exporter_raises(net, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("deep inside")

    monkeypatch.setattr(torch.export, "export", fail)
    with pytest.raises(ExportError, match="cannot follow the network: AssertionError: deep inside"):
        export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE)


class PaddedShortcut(nn.Module):
    """A convolution beside a strided, zero-padded identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        shortcut = nn.functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        return torch.relu(self.conv(torch.relu(self.bn(images))) + shortcut).mean((2, 3))


@pytest.mark.parametrize("opset", [13, 17])
def test_export_lowers_padding_and_unfused_batch_norm(images, tmp_path, opset):
    net = PaddedShortcut().eval()
    model = export_onnx(net, tmp_path / "net.onnx", input_shape=SHAPE, opset=opset)
    ops = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert {"Pad", "BatchNormalization"} <= ops
    with torch.no_grad():
        expected = net(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run_onnx(read_content(model), images, batch=6), expected, rtol=1e-4, atol=1e-5)
