"""A fake-quantised network has the integers of its ONNX model, and gradients inside the range alone."""

import copy

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper
from torch import nn

from edgekd.core.errors import ExportError, ParityError
from edgekd.export import read_content, read_proto, run_onnx
from edgekd.models import build, deploy, spec_for
from edgekd.precision import fake_quantized, int8_from_fake_quantized, quantized_ops
from edgekd.precision.bn_folding import ChannelAffine, without_batch_norms
from edgekd.precision.fake_quant import fake_quantise, weight_scales
from edgekd.precision.qat_export import with_trained_pairs


def rounded_by_onnx(values, scale, axis=0):
    """QuantizeLinear and DequantizeLinear of ONNX Runtime."""
    zero = np.zeros_like(scale, np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"], axis=axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=axis),
    ]
    value = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, values.shape)
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, values.shape)
    constants = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")]
    graph = helper.make_graph(nodes, "g", [value], [result], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return run_onnx(model.SerializeToString(), values, batch=len(values))


def test_rounding_is_that_of_onnx_to_the_last_bit_ties_and_saturation_included():
    generator = np.random.default_rng(0)
    values = (generator.standard_normal((64, 500)) * 4).astype(np.float32)
    values[0, :200] = (np.arange(200) - 100 + 0.5) * 0.03125
    for scale in (np.float32(0.03125), np.float32(0.0217), np.float32(0.3)):
        found = fake_quantise(torch.from_numpy(values), torch.tensor(scale)).numpy()
        np.testing.assert_array_equal(found, rounded_by_onnx(values, np.array(scale)))
    assert np.abs(values / 0.0217).max() > 128


def test_weights_are_rounded_to_the_scale_of_their_channel():
    weight = torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    weight *= torch.logspace(-3, 1, 5).reshape(-1, 1, 1, 1)
    weight[2] = 0
    scales = weight_scales(weight)
    expected = weight.abs().reshape(5, -1).amax(1) / 127
    expected[2] = 1
    torch.testing.assert_close(scales.flatten(), expected, rtol=0, atol=0)
    found = fake_quantise(weight, scales).numpy()
    np.testing.assert_array_equal(found, rounded_by_onnx(weight.numpy(), scales.flatten().numpy()))


def test_gradients_pass_inside_the_range_and_the_scales_are_essers():
    values = torch.tensor([0.3, -0.26, 100.0, -100.0], requires_grad=True)
    scale = torch.tensor(0.5, requires_grad=True)
    fake_quantise(values, scale).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert values.grad.tolist() == [1.0, 2.0, 0.0, 0.0]
    slopes = [1 - 0.6, -1 + 0.52, 127, -128]
    expected = (1 * slopes[0] + 2 * slopes[1] + 3 * slopes[2] + 4 * slopes[3]) / (127 * 4) ** 0.5
    assert scale.grad.item() == pytest.approx(expected, rel=1e-5)


def zoo(family, **sizes):
    spec = spec_for(family, **sizes, in_channels=3, num_classes=5, resolution=16, mean=(0.4,) * 3, std=(0.3,) * 3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = build(spec)
        net.train()
        for _ in range(3):
            net(torch.rand(16, 3, 16, 16))  # batch norms with statistics of their own
    return deploy(net.eval())


def pictures(count=48):
    coarse = np.random.default_rng(5).random((count, 3, 8, 8), dtype=np.float32)
    return coarse.repeat(2, axis=2).repeat(2, axis=3)


FAMILIES = [
    ("resnet", {"depth": 8, "width": 4}),
    ("wrn", {"depth": 10, "width": 4}),
    ("vgg", {"depth": 8, "width": 4}),
    ("mobilenetv2", {}),
    ("repvgg", {}),
    ("fcn", {"depth": 8, "width": 4}),
]


def trained(net, steps=4):
    """A few steps of training of everything, scales included."""
    module = net.module.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-3)
    images = torch.from_numpy(pictures())
    for _ in range(steps):
        outputs = module(images)
        loss = F.cross_entropy(outputs, torch.arange(len(images)) % 5 if outputs.dim() == 2 else
                               torch.zeros(len(images), *outputs.shape[2:], dtype=torch.long))  # fmt: skip
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    return net


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_batch_norms_go_without_a_trace(family, sizes):
    net = zoo(family, **sizes)
    images = torch.from_numpy(pictures())
    before, paths = net(images), {path for path, _ in net.named_modules()}
    without_batch_norms(net, images)
    assert not any(isinstance(one, nn.BatchNorm2d) for one in net.modules())
    assert {path for path, _ in net.named_modules()} == paths
    torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-4)
    assert any(isinstance(one, ChannelAffine) for one in net.modules()) == (family == "wrn")


class ReadTwice(nn.Module):
    """The output of a convolution goes to a batch norm and past it."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.bn.running_mean += 1

    def forward(self, images):
        maps = self.conv(images)
        return self.fc((maps * self.bn(maps)).mean((2, 3)))


def test_a_batch_norm_stays_apart_where_its_layer_is_read_elsewhere_too():
    net, images = ReadTwice().eval(), torch.from_numpy(pictures())
    expected = net(images)
    without_batch_norms(net, images)
    assert isinstance(net.bn, ChannelAffine)
    torch.testing.assert_close(net(images), expected)


def test_a_batch_norm_without_statistics_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(ExportError, match="batch norm 1 keeps no running statistics"):
        without_batch_norms(net, torch.from_numpy(pictures()))


def integers(content, inputs, names):
    """What QuantizeLinear nodes give, by name of the tensor they read."""
    proto = onnx.load_from_string(content)
    found = {}
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] in names:
            cut = copy.deepcopy(proto)
            del cut.graph.output[:]
            cut.graph.output.append(helper.make_tensor_value_info(node.output[0], onnx.TensorProto.INT8, None))
            found[node.input[0]] = run_onnx(cut.SerializeToString(), inputs, batch=len(inputs), as_written=True)
    return found


@pytest.mark.parametrize(("family", "sizes"), FAMILIES)
def test_the_exported_model_gives_the_answers_of_the_network_that_was_trained(family, sizes, tmp_path):
    images = pictures()
    net = fake_quantized(zoo(family, **sizes), [torch.from_numpy(images)])
    before = net.scales.clone()
    trained(net)
    assert (net.scales != before).all()
    with torch.no_grad():
        expected = net.module(torch.from_numpy(images)).numpy()
    model, float_model = int8_from_fake_quantized(net, tmp_path / "q.onnx", inputs=images, opset=17, parents=("p",))
    found = run_onnx(read_content(model), images, batch=16, as_written=True)
    size = np.sqrt((expected**2).mean())
    assert np.median(np.abs(found - expected)) < 1e-5 * size
    unquantised = run_onnx(read_content(float_model), images, batch=16)
    assert np.median(np.abs(unquantised - expected)) > 1e-3 * size
    report = quantized_ops(model)
    adds = sum(not site.weight for site in net.sites)
    assert (report.floating, report.quantized_adds, report.residual_adds) == ((), adds, adds)
    assert (adds > 0) == (family not in ("vgg", "repvgg"))
    assert (model.flavour, model.parents, float_model.parents) == ("tensorrt", (float_model.digest,), ("p",))
    held = {t.name: numpy_helper.to_array(t) for t in read_proto(model).graph.initializer}
    for index, scale in enumerate(net.scales.tolist()):
        if f"activation_scale_{index}" in held:
            assert held[f"activation_scale_{index}"] == np.float32(scale)


def test_the_integers_of_every_layer_are_those_of_the_network(tmp_path):
    """The inputs of layers, rounded by the network, are scale times the integers of the model."""
    images = pictures(8)
    net = trained(fake_quantized(zoo("resnet", depth=8, width=4), [torch.from_numpy(images)]))
    seen = {}
    scales = [float(net.scales[site.scales[0]]) for site in net.sites if site.weight]
    layers = [site.weight.removesuffix(".weight") for site in net.sites if site.weight]
    handles = [
        net.module.get_submodule(path).register_forward_pre_hook(
            lambda module, arguments, path=path: seen.update({path: arguments[0].detach().numpy()})
        )
        for path in layers
    ]
    with torch.no_grad():
        net.module(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    model, _ = int8_from_fake_quantized(net, tmp_path / "q.onnx", inputs=images, opset=17, parents=())
    graph = read_proto(model).graph
    sources = {name: node for node in graph.node for name in node.output}
    for path, scale in zip(layers, scales, strict=True):
        node = next(one for one in graph.node if one.name.startswith(f"{path}/"))
        quantize = sources[sources[node.input[0]].input[0]]
        found = integers(read_content(model), images, {quantize.input[0]})[quantize.input[0]]
        expected = np.clip(np.round(seen[path] / np.float32(scale)), -128, 127).reshape(found.shape)
        assert (found == expected).mean() > 0.999
        assert np.abs(found - expected).max() <= 1


def test_a_tensor_read_by_a_layer_and_an_addition_has_one_scale():
    net = fake_quantized(zoo("resnet", depth=8, width=4), [torch.from_numpy(pictures())])
    first, add = net.sites[1], next(site for site in net.sites if not site.weight)
    assert first.weight == "net.layer1.0.conv1.weight"
    assert first.scales[0] in add.scales


def test_fake_quantisation_ends_with_release_and_with_an_error():
    images = torch.from_numpy(pictures())
    plain = zoo("resnet", depth=8, width=4)
    without_batch_norms(plain, images)
    expected = plain(images)
    net = fake_quantized(plain, [images])
    assert not torch.equal(net.module(images), expected)
    with pytest.raises(RuntimeError):
        net.module(images[:, :2])
    layer = nn.Conv2d(3, 3, 1)
    torch.testing.assert_close(layer(images), F.conv2d(images, layer.weight, layer.bias), rtol=0, atol=0)
    released = net.release()
    assert torch.equal(released(images), expected)
    assert not any("activation" in name for name in released.state_dict())


class Fickle(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, images):
        maps = self.conv(images)
        return self.fc((maps + maps.abs() if len(images) > 4 else maps).mean((2, 3)))


def test_networks_without_fixed_layers_are_refused():
    images = torch.from_numpy(pictures())
    with pytest.raises(ExportError, match="differently from batch to batch"):
        fake_quantized(Fickle().eval(), [images, images[:4]])
    with pytest.raises(ExportError, match="no convolution or linear layer"):
        fake_quantized(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), [images])
    net = fake_quantized(Fickle().eval(), [images])
    with pytest.raises(ExportError, match="does not make the 3 quantised calls .* another came after 1"):
        net.module(images[:4])


def test_a_model_with_other_scales_than_were_trained_is_refused(tmp_path, monkeypatch):
    images = pictures()
    net = fake_quantized(zoo("resnet", depth=8, width=4), [torch.from_numpy(images)])

    def wrong(proto, sites, scales, weights):
        return with_trained_pairs(proto, sites, scales * 1.5, weights)

    monkeypatch.setattr("edgekd.precision.qat_export.with_trained_pairs", wrong)
    with pytest.raises(ParityError, match="not the network that was trained"):
        int8_from_fake_quantized(net, tmp_path / "q.onnx", inputs=images, opset=17, parents=())
    assert not (tmp_path / "q.onnx").exists()
