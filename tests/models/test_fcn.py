"""The family for logits of pixels."""

import pytest
import torch
import torch.nn.functional as F

from edgekd.core.errors import ConfigError
from edgekd.models import FAMILIES, build, count_macs, count_params, discover_taps, load_teacher, spec_for, taps_at


def spec_of(resolution=24, in_channels=1, depth=8, width=4, num_classes=5):
    facts = {"in_channels": in_channels, "num_classes": num_classes, "resolution": resolution}
    return spec_for("fcn", depth=depth, width=width, **facts, mean=(0.5,) * in_channels, std=(0.25,) * in_channels)


@pytest.mark.parametrize(("resolution", "in_channels"), [(8, 1), (9, 3), (13, 1), (24, 1), (33, 3), (96, 1), (225, 1)])
def test_network_answers_for_each_pixel_and_trains_at_every_resolution(resolution, in_channels):
    module = build(spec_of(resolution, in_channels))
    logits = module(torch.rand(2, in_channels, resolution, resolution))
    assert logits.shape == (2, 5, resolution, resolution)
    logits.square().sum().backward()
    assert [name for name, value in module.named_parameters() if value.grad is None] == []


def test_every_listed_depth_and_width_grows():
    by_depth = [count_params(build(spec_of(depth=depth))) for depth in FAMILIES["fcn"].depths]
    by_width = [count_params(build(spec_of(width=width))) for width in FAMILIES["fcn"].widths]
    assert by_depth == sorted(set(by_depth))
    assert by_width == sorted(set(by_width))


def test_encoder_is_that_of_the_residual_family():
    facts = {"in_channels": 1, "num_classes": 5, "resolution": 24, "mean": (0.5,), "std": (0.25,)}
    encoder = build(spec_for("resnet", depth=14, width=8, **facts))
    network = build(spec_of(depth=14, width=8))
    for stage in ("net.layer1", "net.layer2", "net.layer3"):
        network.get_submodule(stage).load_state_dict(encoder.get_submodule(stage).state_dict())
    maps = torch.rand(2, 8, 24, 24)
    for stage in ("layer1", "layer2", "layer3"):
        mine, theirs = (net.eval().get_submodule(f"net.{stage}")(maps) for net in (network, encoder))
        assert torch.equal(mine, theirs)
        maps = theirs


@pytest.mark.parametrize("resolution", [24, 96])
def test_penultimate_map_feeds_the_head(resolution):
    spec = spec_of(resolution)
    module = build(spec).eval()
    seen = {}
    module.get_submodule(FAMILIES["fcn"].penultimate).register_forward_hook(
        lambda _m, _i, output: seen.update(map=output)
    )
    with torch.no_grad():
        logits = module(torch.rand(2, *spec.input_shape))
        scores = next(part for part in module.get_submodule("net.head").modules() if isinstance(part, torch.nn.Conv2d))
        expected = torch.einsum("bchw,kc->bkhw", seen["map"], scores.weight[:, :, 0, 0]) + scores.bias[:, None, None]
        expected = F.interpolate(expected, size=resolution, mode="bilinear", align_corners=False)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("resolution", [8, 24, 33, 96, 224])
def test_taps_are_found_and_the_penultimate_is_the_deepest(resolution):
    spec = spec_of(resolution)
    module, family = build(spec), FAMILIES["fcn"]
    depths = [tap.depth for tap in taps_at(module, spec.input_shape, family.default_taps(spec))]
    assert depths == sorted(depths)
    found = discover_taps(module, spec.input_shape)
    assert found[-1].path == family.penultimate
    assert all(len(tap.shape) == 3 for tap in found)


def test_the_deepest_stage_reaches_every_pixel():
    """A change in one corner changes the far corner's logits only through the deep, low-resolution maps."""
    spec = spec_of(24, depth=14)
    torch.manual_seed(0)
    module = build(spec).eval()
    picture = torch.rand(1, 1, 24, 24)
    changed = picture.clone()
    changed[:, :, :4, :4] = 1 - changed[:, :, :4, :4]
    with torch.no_grad():
        difference = (module(picture) - module(changed)).abs().amax(dim=(0, 1))
    assert difference[12, 12] > 0


def test_macs_count_the_decoder_by_hand():
    spec = spec_of(16, width=4)
    stages = count_macs(build(spec_for("resnet", depth=8, width=4, in_channels=1, num_classes=5, resolution=16,
                                       mean=(0.5,), std=(0.25,))), (1, 16, 16)) - 16 * 5  # fmt: skip
    lateral = 4 * 8 * 16 * 16 + 8 * 8 * 8 * 8 + 16 * 8 * 4 * 4
    assert count_macs(build(spec), (1, 16, 16)) == stages + lateral + 9 * 8 * 8 * 256 + 8 * 5 * 256


def test_a_teacher_must_answer_for_what_the_task_asks():
    facts = {"in_channels": 1, "num_classes": 5, "resolution": 24, "mean": (0.5,), "std": (0.25,), "weights": None}
    spec, module = load_teacher("fcn8-w4", **facts, is_dense=True)
    assert (spec.family, module(torch.rand(1, 1, 24, 24)).shape) == ("fcn", (1, 5, 24, 24))
    with pytest.raises(ConfigError, match=r"for each pixel, so \[2, 5, 24, 24\] was expected.*edgekd has fcn"):
        load_teacher("resnet8-w4", **facts, is_dense=True)
    with pytest.raises(ConfigError, match=r"returned \[2, 5, 24, 24\].*so \[2, 5\] was expected"):
        load_teacher("fcn8-w4", **facts)
