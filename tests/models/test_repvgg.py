import copy

import pytest
import torch
from torch import nn

from edgekd.models import FAMILIES, RepBlock, build, count_macs, deploy, spec_for, taps_at


def shaken(module):
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.3, 3.0)
            nn.init.uniform_(layer.weight, -1.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return module.eval()


def spec_at(resolution, family="repvgg", depth=10, in_channels=3):
    return spec_for(
        family,
        depth=depth,
        width=8,
        in_channels=in_channels,
        num_classes=10,
        resolution=resolution,
        mean=(0.5,) * in_channels,
        std=(0.25,) * in_channels,
    )


@pytest.mark.parametrize(("resolution", "in_channels"), [(8, 1), (32, 3), (64, 3), (120, 3)])
def test_deploy_computes_the_same(resolution, in_channels):
    torch.manual_seed(resolution)
    spec = spec_at(resolution, in_channels=in_channels)
    module = shaken(build(spec))
    deployed = deploy(module)
    inputs = torch.rand(4, *spec.input_shape)
    with torch.no_grad():
        expected, got = module(inputs), deployed(inputs)
        assert expected.std() > 1e-2
        assert (got - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max().item())
        exact = module.double()(inputs.double())
        assert (deploy(module)(inputs.double()) - exact).abs().max() <= 1e-12 * max(1.0, exact.abs().max().item())


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(6, 6, 1), (6, 6, 2), (3, 6, 1)])
def test_deploy_of_one_block_has_every_branch_in_one_kernel(in_channels, out_channels, stride):
    torch.manual_seed(0)
    block = shaken(RepBlock(in_channels, out_channels, stride=stride))
    deployed = deploy(block)
    maps = torch.randn(2, in_channels, 9, 9)
    with torch.no_grad():
        assert torch.allclose(deployed(maps), block(maps), atol=1e-5)
    assert [type(part) for part in deployed] == [nn.Conv2d, nn.ReLU]
    assert deployed[0].stride == (stride, stride)


def test_deploy_leaves_plain_convolutions_and_the_original_untouched():
    spec = spec_at(32)
    module = shaken(build(spec))
    before = copy.deepcopy(module.state_dict())
    deployed = deploy(module)
    kinds = {type(part) for part in deployed.modules()}
    assert not kinds & {nn.BatchNorm2d, RepBlock}
    assert all(conv.kernel_size == (3, 3) for conv in deployed.modules() if isinstance(conv, nn.Conv2d))
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(isinstance(part, RepBlock) for part in module.modules())
    assert not {id(value) for value in module.parameters()} & {id(value) for value in deployed.parameters()}


def test_deploy_drops_the_extra_branches_from_the_cost():
    spec = spec_at(32)
    module = build(spec)
    linear = 32 * 10
    trained, deployed = (count_macs(net, spec.input_shape) - linear for net in (module, deploy(module)))
    assert trained * 9 == deployed * 10


def test_deploy_keeps_default_taps():
    spec = spec_at(32)
    module = shaken(build(spec))
    paths = (*FAMILIES["repvgg"].default_taps(spec), "net.flatten")
    before, after = (taps_at(net, spec.input_shape, paths) for net in (module, deploy(module)))
    assert [(tap.path, tap.shape) for tap in before] == [(tap.path, tap.shape) for tap in after]


@pytest.mark.parametrize("is_training", [True, False])
def test_deploy_copies_other_networks_as_they_are(is_training):
    module = build(spec_at(16, "resnet", depth=8)).train(is_training)
    copied = deploy(module)
    assert copied is not module
    assert copied.training is is_training
    assert str(copied) == str(module)
    pairs = zip(module.state_dict().values(), copied.state_dict().values(), strict=True)
    assert all(torch.equal(mine, theirs) and mine.data_ptr() != theirs.data_ptr() for mine, theirs in pairs)


def test_deploy_refuses_batch_norm_without_statistics():
    block = RepBlock(4, 4, stride=1)
    block.bn1 = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        deploy(block)
