import dataclasses

import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.models import FAMILIES, build, count_params, parse_net, spec_for, taps_at

SMALL = {"resnet": (8, 4), "wrn": (10, 8), "vgg": (8, 4), "mobilenetv2": (7, 4), "repvgg": (4, 4)}


def spec_of(family, *, in_channels=3, resolution=32, depth=None, width=None, num_classes=10, **more):
    return spec_for(
        family,
        depth=SMALL[family][0] if depth is None else depth,
        width=SMALL[family][1] if width is None else width,
        in_channels=in_channels,
        num_classes=num_classes,
        resolution=resolution,
        mean=(0.5,) * in_channels,
        std=(0.25,) * in_channels,
        **more,
    )


def test_every_family_is_registered():
    assert {name for name in FAMILIES if FAMILIES[name].takes == "pictures"} == {*SMALL, "fcn", "towers"}
    assert {name for name in FAMILIES if FAMILIES[name].takes == "tokens"} == {"bert"}


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize(("resolution", "in_channels"), [(8, 1), (9, 3), (13, 1), (28, 1), (32, 3), (64, 3), (224, 1)])
def test_network_runs_and_trains_at_every_resolution(family, resolution, in_channels):
    module = build(spec_of(family, in_channels=in_channels, resolution=resolution, num_classes=7))
    logits = module(torch.rand(2, in_channels, resolution, resolution))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    unused = [name for name, value in module.named_parameters() if value.grad is None]
    assert unused == []


@pytest.mark.parametrize("family", SMALL)
def test_every_listed_depth_and_width_builds_and_grows(family):
    known = FAMILIES[family]
    by_depth = [count_params(build(spec_of(family, depth=depth))) for depth in known.depths]
    by_width = [count_params(build(spec_of(family, width=width))) for width in known.widths]
    assert by_depth == sorted(set(by_depth))
    assert by_width == sorted(set(by_width))


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("resolution", [8, 32, 64, 224])
def test_default_taps_and_penultimate_exist_shallow_to_deep(family, resolution):
    spec = spec_of(family, resolution=resolution)
    known, module = FAMILIES[family], build(spec)
    taps = taps_at(module, spec.input_shape, (*known.default_taps(spec), known.penultimate))
    depths = [tap.depth for tap in taps]
    assert depths == sorted(depths)
    assert [len(tap.shape) for tap in taps] == [3] * (len(taps) - 1) + [1]
    assert all(min(tap.shape[1:]) >= 2 for tap in taps[:-1])


@pytest.mark.parametrize("family", SMALL)
def test_penultimate_output_feeds_the_classifier(family):
    spec = spec_of(family)
    module = build(spec).eval()
    features = {}
    module.get_submodule(FAMILIES[family].penultimate).register_forward_hook(
        lambda _module, _inputs, output: features.update(d=output)
    )
    with torch.no_grad():
        logits = module(torch.rand(3, *spec.input_shape))
    linear = module.get_submodule("net.linear")
    assert torch.equal(features["d"] @ linear.weight.T + linear.bias, logits) or torch.allclose(
        features["d"] @ linear.weight.T + linear.bias, logits, atol=1e-6
    )


@pytest.mark.parametrize("family", SMALL)
def test_first_stage_has_the_width_of_the_spec(family):
    spec = spec_of(family, width=12)
    first = {"mobilenetv2": "net.stage1", "vgg": "net.stage1", "repvgg": "net.stage1"}.get(family, "net.layer1")
    (tap,) = taps_at(build(spec), spec.input_shape, [first])
    assert tap.shape == (12, 32, 32)


def test_input_is_normalised_inside_the_network():
    spec = spec_of("resnet", in_channels=2)
    spec = dataclasses.replace(spec, mean=(0.1, 0.6), std=(0.2, 0.5))
    module = build(spec).eval()
    inputs = torch.rand(2, 2, 32, 32)
    by_hand = torch.stack([(inputs[:, 0] - 0.1) / 0.2, (inputs[:, 1] - 0.6) / 0.5], dim=1)
    with torch.no_grad():
        assert torch.allclose(module(inputs), module.get_submodule("net")(by_hand), atol=1e-5)
    assert all(name.startswith("net.") for name in module.state_dict())


@pytest.mark.parametrize("family", SMALL)
def test_initialisation_has_the_variance_of_he(family):
    torch.manual_seed(0)
    module = build(spec_of(family, width=32))
    checked = 0
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.weight.numel() >= 4000:
            fan_in = layer.weight[0].numel()
            gain = 2.0 if isinstance(layer, nn.Conv2d) else 1.0
            assert layer.weight.var().item() * fan_in / gain == pytest.approx(1.0, abs=0.12)
            checked += 1
        if isinstance(layer, nn.Linear):
            assert not layer.bias.any()
    assert checked >= 3


def test_equal_seeds_give_equal_weights():
    torch.manual_seed(5)
    first = build(spec_of("wrn")).state_dict()
    torch.manual_seed(5)
    second = build(spec_of("wrn")).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_standard_size_is_taken_when_none_is_given():
    spec = spec_for("resnet", in_channels=3, num_classes=10, resolution=32, mean=(0.5,) * 3, std=(0.2,) * 3)
    assert (spec.depth, spec.width, dict(spec.options)) == (20, 16, {"shortcut": "A", "stem": "full"})
    for family in FAMILIES:
        known = FAMILIES[family]
        assert known.standard[0] in known.depths
        assert known.standard[1] in known.widths


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"depth": 21}, "6n+2"),
        ({"width": 0}, "width is 0"),
        ({"resolution": 7}, "at least 8 pixels"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"in_channels": 0, "mean": (), "std": ()}, "in_channels is 0"),
        ({"mean": (0.5,)}, "mean has 1 values for 3 input channels"),
        ({"std": (0.2, 0.0, 0.2)}, "every value must be above 0"),
        ({"std": (0.2, float("nan"), 0.2)}, "every value must be above 0"),
        ({"options": {"shortcutt": "A"}}, "did you mean shortcut"),
        ({"options": {"shortcut": "C"}}, "unknown resnet shortcut 'C'"),
        ({"family": "resnte"}, "did you mean resnet"),
    ],
)
def test_build_refuses_a_wrong_spec(changes, words):
    spec = dataclasses.replace(spec_of("resnet"), **changes)
    with pytest.raises(ConfigError, match=words.replace("+", r"\+")):
        build(spec)


def test_wrong_spec_reports_all_sizes_at_once():
    with pytest.raises(ConfigError, match="depth 9.*width is 0.*resolution is 4"):
        spec_of("resnet", depth=9, width=0, resolution=4)


@pytest.mark.parametrize(
    ("family", "wrong"),
    [("resnet", (2, 10, 21)), ("wrn", (4, 12)), ("vgg", (16,)), ("mobilenetv2", (8,)), ("repvgg", (1, 8))],
)
def test_depths_outside_the_family_are_refused(family, wrong):
    for depth in wrong:
        with pytest.raises(ConfigError, match=f"depth {depth} is not"):
            spec_of(family, depth=depth)


@pytest.mark.parametrize(
    ("text", "family", "choice"),
    [
        ("resnet", "resnet", {}),
        ("resnet20", "resnet", {"depth": 20}),
        (" resnet-20 ", "resnet", {"depth": 20}),
        ("resnet20-w16", "resnet", {"depth": 20, "width": 16}),
        ("resnet-w8", "resnet", {"width": 8}),
        ("mobilenetv2", "mobilenetv2", {}),
        ("mobilenetv2-w8", "mobilenetv2", {"width": 8}),
        ("mobilenetv217-w16", "mobilenetv2", {"depth": 17, "width": 16}),
        ("resnet:depth=8,width=4", "resnet", {"depth": 8, "width": 4}),
        ("resnet:depth=8, shortcut=B", "resnet", {"depth": 8, "options": {"shortcut": "B"}}),
    ],
)
def test_parse_net_reads_every_form(text, family, choice):
    assert parse_net(text) == (family, choice)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resnt20", "did you mean resnet"),
        ("alexnet", "unknown network family 'alexnet'"),
        ("", "unknown network family"),
        ("resnet20x", "'20x' after resnet"),
        ("resnet-", "'-' after resnet"),
        ("resnet20-w", "'20-w' after resnet"),
        ("resnte:depth=8", "did you mean resnet"),
        ("resnet:depth", "not of the form key=value"),
        ("resnet:", "not of the form key=value"),
        ("resnet:depth=eight", "must be a whole number"),
        ("resnet:width=-4", "must be a whole number"),
        ("resnet:widht=4", "did you mean width"),
        ("vgg:shortcut=A", "unknown network setting 'shortcut'"),
    ],
)
def test_parse_net_explains_what_is_wrong(text, words):
    with pytest.raises(ConfigError, match=words):
        parse_net(text)
