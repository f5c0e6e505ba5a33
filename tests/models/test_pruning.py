"""Pruned networks against masks: what is removed must be worth nothing to the rest."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekd.core.artifacts import NetSpec, from_json, to_json
from edgekd.core.errors import ConfigError, StorageError
from edgekd.models import (
    build,
    count_macs,
    deploy,
    family_of,
    find_prunable,
    load_teacher,
    load_weights,
    original_of,
    parse_net,
    prune,
    prune_like,
    save_weights,
    spec_for,
)

pytest.importorskip("torch_pruning", reason="extra prune is not installed")


def _net(text, resolution=16):
    family, choice = parse_net(text)
    spec = spec_for(
        family,
        **choice,
        in_channels=3,
        num_classes=10,
        resolution=resolution,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    torch.manual_seed(0)
    return spec, build(spec).eval()


def _pictures(count=4, resolution=16):
    return torch.rand(count, 3, resolution, resolution, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "text", ["resnet:depth=8,width=8,shortcut=B", "wrn10-w8", "vgg8-w8", "mobilenetv27-w4", "repvgg4-w8"]
)
def test_every_family_is_cut_everywhere_but_at_its_output(text):
    spec, net = _net(text)
    prunable = find_prunable(net, spec.input_shape, name=spec.name)
    assert prunable.refusals == {"net.linear": "its channels are the network's output"}
    found, state = prune(net, spec, prunable, keep=0.5)
    again = build(found)
    again.load_state_dict(state)
    assert again.eval()(_pictures()).shape == (4, 10)
    assert count_macs(again, found.input_shape) < 0.5 * count_macs(net, spec.input_shape)
    assert count_macs(again, found.input_shape) > 0.05 * count_macs(net, spec.input_shape)


def test_what_is_cut_away_are_the_weakest_channels_and_the_rest_computes_what_it_did():
    spec, net = _net("vgg8-w8")
    convs = [module for module in net.modules() if isinstance(module, nn.Conv2d)]
    weak = {}
    with torch.no_grad():
        for number, conv in enumerate(convs):
            dead = torch.randperm(conv.out_channels, generator=torch.Generator().manual_seed(number))
            weak[number] = dead[: conv.out_channels // 2]
            conv.weight[weak[number]] = 0.0
            following = convs[number + 1] if number + 1 < len(convs) else net.net.linear
            following.weight[:, weak[number]] *= 1e-4
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.bias.zero_()
    expected = net(_pictures())
    found, state = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=0.5)
    cut = build(found).eval()
    cut.load_state_dict(state)
    assert torch.allclose(cut(_pictures()), expected, atol=1e-5)
    kept = [module.out_channels for module in cut.modules() if isinstance(module, nn.Conv2d)]
    assert kept == [conv.out_channels // 2 for conv in convs]


def test_weights_are_inherited_and_travel_as_safetensors(tmp_path):
    spec, net = _net("resnet:depth=8,width=8,shortcut=B")
    found, state = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=0.4, ranking="global")
    cut = build(found).eval()
    cut.load_state_dict(state)
    save_weights(cut, tmp_path / "cut.safetensors", {})
    again = build(from_json(NetSpec, to_json(found)))
    load_weights(again, tmp_path / "cut.safetensors")
    assert torch.equal(again.eval()(_pictures()), cut(_pictures()))
    rows = {row.tobytes() for row in net.net.linear.weight.detach().numpy().T.copy()}
    assert all(row.tobytes() in rows for row in cut.net.linear.weight.detach().numpy().T.copy())
    assert found.family == "pruned" and found.name.startswith("pruned:resnet8-w8@16")
    assert original_of(found) == spec and family_of(found) is family_of(spec)


def test_a_frozen_network_is_cut_like_any_other_and_stays_frozen():
    spec, net = _net("resnet8-w8")
    found = find_prunable(net, spec.input_shape, name="teacher")
    wanted, state = prune(net, spec, found, keep=0.5)
    net.requires_grad_(False)
    with torch.no_grad():
        frozen = find_prunable(net, spec.input_shape, name="teacher")
        assert frozen.roots == found.roots and len(frozen.roots) > 1
        cut, frozen_state = prune(net, spec, frozen, keep=0.5)
    assert cut.digest == wanted.digest
    torch.testing.assert_close(frozen_state, state)
    assert not any(parameter.requires_grad for parameter in net.parameters())


@pytest.mark.parametrize("ranking", ["uniform", "global"])
@pytest.mark.parametrize(
    "name", ["vgg8-w8", "resnet8-w8", "resnet:depth=8,width=8,shortcut=B", "mobilenetv27-w8", "wrn10-w16"]
)
def test_a_size_chosen_before_training_inherits_what_cutting_the_trained_network_gives(name, ranking):
    spec, trained = _net(name)
    found, state = prune(trained, spec, find_prunable(trained, spec.input_shape, name="x"), keep=0.5, ranking=ranking)
    trained.requires_grad_(False)
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    torch.testing.assert_close(prune_like(trained, spec, found), state, rtol=0, atol=0)
    torch.testing.assert_close(trained.state_dict(), before, rtol=0, atol=0)
    other = build(spec).eval()
    drawn = prune_like(other, spec, found)
    assert [(name, value.shape) for name, value in drawn.items()] == [(n, value.shape) for n, value in state.items()]
    assert not all(torch.equal(drawn[name], value) for name, value in state.items())


def test_a_student_of_another_network_inherits_nothing():
    spec, net = _net("vgg8-w8")
    found, _ = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=0.5)
    other, wider = _net("vgg8-w16")
    with pytest.raises(ConfigError, match="was cut from vgg8-w8@16, not from this vgg8-w16@16"):
        prune_like(wider, other, found)


def test_a_shortcut_that_pads_with_zeros_keeps_its_stream():
    spec, net = _net("resnet8-w8")
    prunable = find_prunable(net, spec.input_shape, name=spec.name)
    assert prunable.roots == ("net.layer1.0.conv1", "net.layer2.0.conv1", "net.layer3.0.conv1")
    assert "net.conv1" in prunable.refusals
    found, _ = prune(net, spec, prunable, keep=0.5)
    whole = 3 * 9 * 8 * 16 * 16 + 32 * 10
    blocks = count_macs(net, spec.input_shape) - whole
    assert count_macs(build(found), spec.input_shape) == whole + blocks // 2


def test_channels_are_kept_in_multiples():
    spec, net = _net("vgg8-w16")
    found, _ = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=0.3, multiple=8)
    channels = [module.out_channels for module in build(found).modules() if isinstance(module, nn.Conv2d)]
    assert all(count % 8 == 0 for count in channels), channels


def test_keeping_everything_changes_nothing():
    spec, net = _net("vgg8-w4")
    found, state = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=1.0)
    cut = build(found).eval()
    cut.load_state_dict(state)
    assert torch.equal(cut(_pictures()), net(_pictures()))


@pytest.mark.parametrize("keep", [0.0, -0.5, 1.5])
def test_impossible_shares_are_refused(keep):
    spec, net = _net("vgg8-w4")
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=keep)


class _FixedView(nn.Module):
    """Its first convolution feeds a view of fixed size; its second has a free middle."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 6, 1)
        self.last = nn.Linear(6, 10)

    def forward(self, x):
        folded = self.first(x).view(x.shape[0], 4, 2, *x.shape[2:]).flatten(1, 2)
        return self.last(F.relu(self.middle(folded)).mean((2, 3)))


def test_layers_that_cannot_be_cut_are_named_with_the_reason():
    prunable = find_prunable(_FixedView(), (3, 8, 8), name="mine")
    assert prunable.roots == ("middle",)
    assert "does not run with fewer channels" in prunable.refusals["first"]


class _Rolled(nn.Module):
    """Runs with any number of channels, but each is added to its neighbour."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)

    def forward(self, x):
        maps = F.relu(self.first(x))
        return self.last((maps + maps.roll(1, dims=1)).mean((2, 3)))


def test_channels_that_work_with_their_neighbours_are_left_alone():
    with pytest.raises(ConfigError, match="first: its channels have fixed places: removing one moves the others"):
        find_prunable(_Rolled(), (3, 8, 8), name="mine")


class _Weighed(nn.Module):
    """Every channel has a weight that is no parameter: eight of them, whatever the convolution has."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8, 10)

    def forward(self, x):
        return self.last((F.relu(self.first(x)) * torch.arange(1.0, 9.0).reshape(1, 8, 1, 1)).mean((2, 3)))


def test_a_network_without_anything_to_cut_is_refused_with_its_layers():
    with pytest.raises(ConfigError) as error:
        find_prunable(_Weighed(), (3, 8, 8), name="teacher mine")
    assert "teacher mine cannot be pruned" in str(error.value)
    assert "first" in str(error.value) and "last: its channels are the network's output" in str(error.value)


def test_a_teacher_from_a_python_file_is_cut_and_rebuilt(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "class Squeeze(nn.Module):\n"
        "    def __init__(self, c):\n"
        "        super().__init__()\n"
        "        self.a, self.b = nn.Conv2d(c, 4, 1), nn.Conv2d(4, c, 1)\n"
        "    def forward(self, x):\n"
        "        return x * self.b(self.a(x.mean((2, 3), keepdim=True)).relu()).sigmoid()\n"
        "def net(in_channels, num_classes):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 16, 3), nn.GroupNorm(1, 16), nn.SiLU(), Squeeze(16),\n"
        "        nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 12, 1), nn.PReLU(12), nn.AdaptiveAvgPool2d(2),\n"
        "        nn.Flatten(), nn.Linear(48, num_classes))\n"
    )
    spec, net = load_teacher(
        f"{file}:net", in_channels=3, num_classes=10, resolution=16, mean=(0.5,) * 3, std=(0.25,) * 3, weights=None
    )
    found, state = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=0.5)
    cut = build(found).eval()
    cut.load_state_dict(state)
    assert cut(_pictures()).shape == (4, 10)
    depthwise = cut.net[4]
    assert depthwise.groups == depthwise.in_channels == 8 and cut.net[9].in_features == 24
    file.write_text("")
    with pytest.raises(StorageError, match="missing or was altered"):
        build(found)


def test_damaged_specs_are_refused():
    spec, net = _net("vgg8-w4")
    found, _ = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=0.5)

    def damaged(**options):
        return NetSpec(**{**found.__dict__, "options": {**found.options, **options}})

    with pytest.raises(StorageError, match="what was cut"):
        build(damaged(shapes="{"))
    with pytest.raises(StorageError, match="cut from"):
        build(damaged(original="{}"))
    with pytest.raises(ConfigError, match="is wanted"):
        build(damaged(shapes='{"net.linear.weight":[10,4000]}'))
    with pytest.raises(ConfigError, match="has no net.nothing any more"):
        build(damaged(shapes='{"net.nothing":[1]}'))


def test_pruned_repvgg_deploys_to_the_same_answers():
    spec, net = _net("repvgg4-w8")
    found, state = prune(net, spec, find_prunable(net, spec.input_shape, name="x"), keep=0.5)
    cut = build(found).eval()
    cut.load_state_dict(state)
    assert torch.allclose(deploy(cut)(_pictures()), cut(_pictures()), atol=1e-4)
