"""Blocks of the families other than ResNet, written down again from their papers and compared in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from edgekd.models import RepBlock, build, spec_for
from edgekd.models.mobilenet import InvertedResidual
from edgekd.models.wideresnet import PreActivationBlock


def shaken(module):
    torch.manual_seed(7)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.3, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.3, 0.3)
    return module.eval().double()


def batch_norm(layer, x):
    shape = (1, -1, 1, 1)
    centred = (x - layer.running_mean.reshape(shape)) / (layer.running_var.reshape(shape) + 1e-5).sqrt()
    return centred * layer.weight.reshape(shape) + layer.bias.reshape(shape)


def maps_of(channels):
    return torch.randn(2, channels, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def wide_block(block, x, stride):
    active = batch_norm(block.bn1, x).clamp(min=0)
    hidden = batch_norm(block.bn2, F.conv2d(active, block.conv1.weight, stride=stride, padding=1)).clamp(min=0)
    residual = F.conv2d(hidden, block.conv2.weight, padding=1)
    same = stride == 1 and x.shape[1] == residual.shape[1]
    return residual + (x if same else F.conv2d(active, block.shortcut.weight, stride=stride))


@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 4), 2), ((4, 8), 2)])
def test_wide_block_computes_what_the_paper_says(channels, stride):
    block = shaken(PreActivationBlock(*channels, stride=stride))
    x = maps_of(channels[0])
    with torch.no_grad():
        assert torch.allclose(block(x), wide_block(block, x, stride), atol=1e-12)


def test_wide_resnet_rectifies_once_more_before_the_pool():
    spec = spec_for(
        "wrn", depth=10, width=8, in_channels=3, num_classes=5, resolution=32, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    module = shaken(build(spec))
    net = module.get_submodule("net")
    inputs = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        x = F.conv2d(inputs, net.conv1.weight, padding=1)
        for stage, stride in ((net.layer1, 1), (net.layer2, 2), (net.layer3, 2)):
            x = wide_block(stage[0], x, stride)
        feature = batch_norm(net.bn1, x).clamp(min=0).mean((2, 3))
        assert torch.allclose(module(inputs), feature @ net.linear.weight.T + net.linear.bias, atol=1e-10)


@pytest.mark.parametrize("expansion", [1, 6])
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 4), 2)])
def test_inverted_residual_computes_what_the_paper_says(channels, stride, expansion):
    block = shaken(InvertedResidual(*channels, stride=stride, expansion=expansion))
    x = y = maps_of(channels[0])
    layers = list(block.body)
    with torch.no_grad():
        if expansion > 1:
            y = batch_norm(layers[1], F.conv2d(y, layers[0].weight)).clamp(min=0)
            layers = layers[3:]
        per_channel = [
            F.conv2d(y[:, c : c + 1], layers[0].weight[c : c + 1], stride=stride, padding=1) for c in range(y.shape[1])
        ]
        y = batch_norm(layers[1], torch.cat(per_channel, dim=1)).clamp(min=0)
        y = batch_norm(layers[4], F.conv2d(y, layers[3].weight))
        expected = x + y if stride == 1 and channels[0] == channels[1] else y
        assert torch.allclose(block(x), expected, atol=1e-12)


@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((4, 6), 1), ((4, 4), 2)])
def test_rep_block_computes_what_the_paper_says(channels, stride):
    block = shaken(RepBlock(*channels, stride=stride))
    x = maps_of(channels[0])
    with torch.no_grad():
        total = batch_norm(block.bn3, F.conv2d(x, block.conv3.weight, stride=stride, padding=1))
        total = total + batch_norm(block.bn1, F.conv2d(x, block.conv1.weight, stride=stride))
        if stride == 1 and channels[0] == channels[1]:
            total = total + batch_norm(block.bn0, x)
        assert torch.allclose(block(x), total.clamp(min=0), atol=1e-12)


def test_vgg_is_convolution_norm_relu_with_pools_between_stages():
    spec = spec_for("vgg", depth=11, width=4, in_channels=1, num_classes=5, resolution=32, mean=(0.0,), std=(1.0,))
    triple, pool = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU], [nn.MaxPool2d]
    expected = [triple, pool + triple, pool + triple * 2, pool + triple * 2, triple * 2]
    net = build(spec).get_submodule("net")
    assert [[type(layer) for layer in net.get_submodule(f"stage{index}")] for index in range(1, 6)] == expected
