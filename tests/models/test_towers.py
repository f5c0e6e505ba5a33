"""The family with a tower for each modality."""

import pytest
import torch

from edgekd.core.errors import ConfigError
from edgekd.models import FAMILIES, build, count_params, discover_taps, modalities_of, parse_net, spec_for, taps_at


def spec_of(resolution=8, in_channels=2, depth=3, width=4, modalities="2"):
    return spec_for(
        "towers", depth=depth, width=width, in_channels=in_channels, num_classes=7, resolution=resolution,
        mean=(0.5,) * in_channels, std=(0.25,) * in_channels, options={"modalities": modalities},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("resolution", "in_channels", "modalities"), [(8, 2, "2"), (13, 6, "2"), (32, 6, "3"), (224, 4, "4")]
)
def test_network_runs_and_trains_at_every_resolution(resolution, in_channels, modalities):
    module = build(spec_of(resolution, in_channels, modalities=modalities))
    logits = module(torch.rand(2, in_channels, resolution, resolution))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    assert [name for name, value in module.named_parameters() if value.grad is None] == []


def test_every_listed_depth_and_width_grows():
    by_depth = [count_params(build(spec_of(depth=depth))) for depth in FAMILIES["towers"].depths]
    by_width = [count_params(build(spec_of(width=width))) for width in FAMILIES["towers"].widths]
    assert by_depth == sorted(set(by_depth))
    assert by_width == sorted(set(by_width))


@pytest.mark.parametrize("modalities", ["2", "3"])
def test_each_embedding_sees_its_own_channels_and_all_reach_the_logits(modalities):
    count = int(modalities)
    spec = spec_of(16, in_channels=2 * count, modalities=modalities)
    torch.manual_seed(0)
    module, paths = build(spec).eval(), modalities_of(spec)
    assert len(paths) == count
    seen = {}
    for path in paths:
        module.get_submodule(path).register_forward_hook(lambda _m, _i, output, path=path: seen.update({path: output}))

    def run(inputs):
        with torch.no_grad():
            logits = module(inputs)
        return dict(seen), logits

    inputs = torch.rand(3, *spec.input_shape)
    before, logits = run(inputs)
    for group, path in enumerate(paths):
        poisoned = inputs.clone()
        poisoned[:, 2 * group : 2 * group + 2] = 1 - poisoned[:, 2 * group : 2 * group + 2]
        after, others = run(poisoned)
        changed = [name for name in paths if not torch.equal(before[name], after[name])]
        assert changed == [path]
        assert not torch.equal(others, logits)


def test_embeddings_have_one_width_and_can_be_tapped():
    spec = spec_of(16, width=5)
    taps = taps_at(build(spec), spec.input_shape, (*modalities_of(spec), FAMILIES["towers"].penultimate))
    assert [tap.shape for tap in taps] == [(20,), (20,), (20,)]
    assert discover_taps(build(spec), spec.input_shape)[-1].path == FAMILIES["towers"].penultimate
    assert len(taps_at(build(spec), spec.input_shape, FAMILIES["towers"].default_taps(spec))) == 6


def test_channels_must_divide_into_groups():
    with pytest.raises(ConfigError, match="3 input channels cannot be divided into 2 equal groups"):
        spec_of(in_channels=3)


def test_other_networks_keep_no_modalities_apart():
    facts = {"in_channels": 2, "num_classes": 7, "resolution": 8, "mean": (0.5,) * 2, "std": (0.25,) * 2}
    assert modalities_of(spec_for("resnet", depth=8, width=4, **facts)) == ()


def test_number_of_modalities_is_part_of_the_name():
    assert parse_net("towers:depth=3,width=8,modalities=3") == (
        "towers", {"depth": 3, "width": 8, "options": {"modalities": "3"}},
    )  # fmt: skip
