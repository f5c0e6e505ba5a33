"""Sizes against closed forms and published figures, for the families other than ResNet."""

import pytest
import torch

from edgekd.models import build, count_macs, count_params, parse_net, spec_for

SMALL = {"in_channels": 3, "num_classes": 10, "resolution": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def network(family, *, depth, width, num_classes=10, resolution=32, in_channels=3):
    spec = spec_for(
        family,
        depth=depth,
        width=width,
        in_channels=in_channels,
        num_classes=num_classes,
        resolution=resolution,
        mean=(0.5,) * in_channels,
        std=(0.25,) * in_channels,
    )
    return build(spec)


@pytest.mark.parametrize(
    ("depth", "width", "classes", "params"),
    [
        (28, 160, 10, 36_479_194),
        (40, 32, 100, 2_255_156),
        (16, 32, 100, 703_284),
        (40, 16, 100, 569_780),
    ],
)
def test_wide_resnet_has_the_published_parameters(depth, width, classes, params):
    assert count_params(network("wrn", depth=depth, width=width, num_classes=classes)) == params


def test_wide_resnet_macs_match_closed_form():
    conv = lambda inputs, outputs, pixels: inputs * outputs * 9 * pixels  # noqa: E731
    expected = conv(3, 16, 1024)
    for inputs, outputs, pixels in ((16, 32, 1024), (32, 64, 256), (64, 128, 64)):
        expected += conv(inputs, outputs, pixels) + 3 * conv(outputs, outputs, pixels) + inputs * outputs * pixels
    expected += 128 * 10
    assert count_macs(network("wrn", depth=16, width=32), (3, 32, 32)) == expected


def test_wide_resnet_stem_narrows_only_below_sixteen_channels():
    assert network("wrn", depth=10, width=8).get_submodule("net.conv1").out_channels == 8
    assert network("wrn", depth=10, width=64).get_submodule("net.conv1").out_channels == 16


def test_mobilenetv2_has_the_published_size():
    module = network("mobilenetv2", depth=17, width=16, num_classes=1000, resolution=224)
    assert count_params(module) == 3_504_872
    assert count_macs(module, (3, 224, 224)) == 300_774_272


def test_mobilenetv2_first_layers_match_closed_form_when_halved():
    module = network("mobilenetv2", depth=7, width=8, resolution=32, in_channels=1)
    pixels = 32 * 32
    assert count_macs(module.get_submodule("net.stem"), (1, 32, 32)) == 9 * 16 * pixels
    assert count_macs(module.get_submodule("net.stage1"), (16, 32, 32)) == (9 * 16 + 16 * 8) * pixels
    expected = (8 * 48 + 9 * 48 + 48 * 16) * pixels
    assert count_macs(module.get_submodule("net.stage2"), (8, 32, 32)) == expected


@pytest.mark.parametrize(
    ("width", "channels"),
    [
        (4, (4, 8, 8, 16, 24, 40, 80, 320)),
        (12, (12, 24, 24, 48, 72, 120, 240, 960)),
        (16, (16, 24, 32, 64, 96, 160, 320, 1280)),
    ],
)
def test_mobilenetv2_scales_its_channels_in_eights(width, channels):
    net = network("mobilenetv2", depth=7, width=width).get_submodule("net")
    projected = [net.get_submodule(f"stage{index}.0.body")[-1].num_features for index in range(1, 8)]
    assert (*projected, net.get_submodule("last.1").num_features) == channels


def test_mobilenetv2_adds_the_input_only_where_shapes_agree():
    net = network("mobilenetv2", depth=17, width=16).get_submodule("net")
    flags = [[block.is_residual for block in net.get_submodule(f"stage{index}")] for index in range(1, 8)]
    assert flags == [[False], *([[False] + [True] * n for n in (1, 2, 3, 2, 2)]), [False]]


@pytest.mark.parametrize(("depth", "convs"), [(8, (1, 1, 1, 1, 1)), (11, (1, 1, 2, 2, 2)), (13, (2, 2, 2, 2, 2))])
def test_vgg_matches_closed_form(depth, convs):
    params = macs = 0
    inputs, pixels = 3, 1024
    for stage, count in enumerate(convs):
        outputs = 16 * (1, 2, 4, 8, 8)[stage]
        pixels //= 4 if stage in (1, 2, 3) else 1
        for _ in range(count):
            params += inputs * outputs * 9 + 2 * outputs
            macs += inputs * outputs * 9 * pixels
            inputs = outputs
    module = network("vgg", depth=depth, width=16)
    assert count_params(module) == params + 128 * 10 + 10
    assert count_macs(module, (3, 32, 32)) == macs + 128 * 10


def test_repvgg_matches_closed_form_before_deployment():
    def block(inputs, outputs, *, is_same):
        return inputs * outputs * 10 + 2 * outputs * (3 if is_same else 2)

    params = block(3, 8, is_same=False) + 2 * block(8, 8, is_same=True)
    params += block(8, 16, is_same=False) + block(16, 16, is_same=True)
    params += block(16, 32, is_same=False) + block(32, 32, is_same=True) + 32 * 10 + 10
    macs = 10 * (3 * 8 + 2 * 64) * 1024 + 10 * (8 * 16 + 256) * 256 + 10 * (16 * 32 + 1024) * 64 + 320
    module = network("repvgg", depth=7, width=8)
    assert count_params(module) == params
    assert count_macs(module, (3, 32, 32)) == macs


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("resnet:depth=8,width=64,stem=half,shortcut=B", 1_233_540),
        ("resnet:depth=32,width=64,stem=half,shortcut=B", 7_433_860),
        ("resnet:depth=20,width=16,shortcut=B", 278_324),
        ("resnet:depth=56,width=16,shortcut=B", 861_620),
        ("wrn:depth=16,width=32", 703_284),
        ("wrn:depth=40,width=32", 2_255_156),
        ("vgg:depth=8,width=64,bias=yes", 3_965_028),
        ("vgg:depth=13,width=64,bias=yes", 9_462_180),
    ],
)
def test_networks_of_the_distillation_benchmark_have_their_published_parameters(name, params):
    family, choice = parse_net(name)
    facts = {"in_channels": 3, "num_classes": 100, "resolution": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}
    assert count_params(build(spec_for(family, **choice, **facts))) == params


def test_a_half_stem_has_half_the_channels_of_the_first_stage():
    net = build(spec_for("resnet", depth=8, width=64, options={"stem": "half"}, **SMALL))
    assert net.get_submodule("net.conv1").out_channels == 32
    assert net.get_submodule("net.layer1.0.conv2").out_channels == 64


def test_biases_of_vgg_start_at_zero_and_change_nothing_after_batch_norm():
    net = build(spec_for("vgg", depth=8, width=8, options={"bias": "yes"}, **SMALL))
    biases = [layer.bias for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(biases) == 5 and all(bool((value == 0).all()) for value in biases)
    inputs = torch.rand(4, 3, 32, 32)
    before = net(inputs)
    with torch.no_grad():
        biases[0].add_(torch.randn_like(biases[0]))
    torch.testing.assert_close(net(inputs), before, rtol=1e-3, atol=1e-4)
