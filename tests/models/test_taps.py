import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.models import (
    FAMILIES,
    Tap,
    build,
    discover_taps,
    feature_entering,
    pair_taps,
    spec_for,
    tap_paths,
    taps_at,
    trace_taps,
    watched_at,
)


def zoo_net(name, *, depth, width, resolution=32):
    spec = spec_for(
        name,
        depth=depth,
        width=width,
        in_channels=3,
        num_classes=10,
        resolution=resolution,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    return spec, build(spec)


def outputs_at(module, paths, inputs):
    seen = {}
    handles = [
        module.get_submodule(path).register_forward_hook(lambda _m, _i, output, path=path: seen.update({path: output}))
        for path in paths
    ]
    with torch.no_grad():
        module(inputs)
    for handle in handles:
        handle.remove()
    return [seen[path] for path in paths]


def test_resnet_taps_are_the_last_blocks_and_the_feature():
    _, module = zoo_net("resnet", depth=20, width=16)
    assert discover_taps(module, (3, 32, 32)) == [
        Tap("net.layer1.2", (16, 32, 32), 7 / 20),
        Tap("net.layer2.2", (32, 16, 16), 13 / 20),
        Tap("net.layer3.2", (64, 8, 8), 19 / 20),
        Tap("net.flatten", (64,), 19 / 20),
    ]


@pytest.mark.parametrize(
    ("family", "depth", "paths"),
    [
        ("wrn", 16, ["net.layer1.1", "net.layer2.1", "net.relu", "net.flatten"]),
        ("vgg", 8, ["net.stage1.2", "net.stage2.3", "net.stage3.3", "net.stage5.2", "net.flatten"]),
        ("mobilenetv2", 17, ["net.stage2.1", "net.stage3.2", "net.stage5.2", "net.last.2", "net.flatten"]),
        ("repvgg", 7, ["net.stage1.1", "net.stage2.1", "net.stage3.1", "net.flatten"]),
    ],
)
def test_taps_of_other_families_are_stage_ends(family, depth, paths):
    _, module = zoo_net(family, depth=depth, width=8)
    assert [tap.path for tap in discover_taps(module, (3, 32, 32))] == paths


def test_discovered_and_default_taps_see_the_same_maps():
    spec, module = zoo_net("resnet", depth=14, width=4)
    module.eval()
    inputs = torch.rand(2, 3, 32, 32)
    found = [tap.path for tap in discover_taps(module, spec.input_shape)]
    default = (*FAMILIES["resnet"].default_taps(spec), FAMILIES["resnet"].penultimate)
    pairs = zip(outputs_at(module, found, inputs), outputs_at(module, default, inputs), strict=True)
    assert all(torch.equal(mine, theirs) for mine, theirs in pairs)


def test_trace_lists_everything_that_runs_once_in_order():
    _, module = zoo_net("resnet", depth=8, width=4)
    paths = [tap.path for tap in trace_taps(module, (3, 32, 32))]
    assert paths[:6] == [
        "net.conv1",
        "net.bn1",
        "net.relu",
        "net.layer1.0.conv1",
        "net.layer1.0.bn1",
        "net.layer1.0.conv2",
    ]
    assert paths[-3:] == ["net.pool", "net.flatten", "net.linear"]
    assert "normalize" not in paths
    assert "net.layer1" not in paths


class Foreign(nn.Module):
    """Shares a ReLU, overwrites in place, returns pairs, leaves a module unused, drops out before the classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.body = nn.Conv2d(4, 6, 3, padding=1, stride=2)
        self.both = nn.LSTM(6, 6, batch_first=True)
        self.spare = nn.Conv2d(1, 1, 1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        x = self.act(self.body(x))
        x, _ = self.both(x.flatten(2).transpose(1, 2))
        return self.head(self.drop(x.mean(1)))


def test_trace_leaves_out_what_a_hook_would_misread():
    module = Foreign()
    taps = {tap.path: tap for tap in trace_taps(module, (3, 8, 8))}
    assert set(taps) == {"stem", "drop", "head"}
    assert taps["stem"] == Tap("stem", (4, 8, 8), 1 / 3)
    assert taps["drop"] == Tap("drop", (6,), 2 / 3)
    assert [tap.path for tap in discover_taps(module, (3, 8, 8))] == ["stem", "drop"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("act", "gives 2 tensors"),
        ("spare", "gives 0 tensors"),
        ("both", "gives 0 tensors"),
        ("norm", "overwritten in place"),
        ("nrom", "unknown module path 'nrom'; did you mean norm"),
        ("", "unknown module path ''"),
    ],
)
def test_taps_at_explains_unusable_paths(path, words):
    with pytest.raises(ConfigError, match=words):
        taps_at(Foreign(), (3, 8, 8), ["stem", path])


def test_taps_at_refuses_five_dimensions():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Unflatten(1, (2, 2)), nn.Flatten())
    with pytest.raises(ConfigError, match=r"gives \[2, 2, 2, 2, 2\] for a batch of 2"):
        taps_at(module, (3, 4, 4), ["1"])


class Layered(nn.Module):
    """Tokens through two layers, each of several modules whose outputs are states too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.body = nn.ModuleList(nn.ModuleList([nn.Sequential(nn.Linear(6, 6), nn.ReLU())]) for _ in range(2))
        self.ends = nn.ModuleList(nn.Identity() for _ in range(2))
        self.scores = nn.Identity()
        self.feature = nn.Flatten()
        self.classifier = nn.Linear(30, 3)

    def forward(self, tokens):
        states = self.table(tokens)
        for (layer,), end in zip(self.body, self.ends, strict=True):
            states = end(layer(states) + states)
        self.scores((states @ states.mT)[:, None])
        return self.classifier(self.feature(states))


def test_discovery_lists_the_end_of_every_layer_of_tokens_and_the_feature():
    taps = discover_taps(Layered(), (5,))
    assert [(tap.path, tap.shape) for tap in taps] == [("ends.0", (5, 6)), ("ends.1", (5, 6)), ("feature", (30,))]
    assert [tap.depth for tap in taps] == pytest.approx([1 / 3, 2 / 3, 2 / 3])


def test_states_of_tokens_are_paired_by_depth_and_never_with_a_feature():
    states = [Tap(f"s{i}", (5, 6), (i + 1) / 2) for i in range(2)]
    layers = [Tap(f"t{i}", (5, 9), (i + 1) / 4) for i in range(4)]
    feature = Tap("feature", (9,), 1.0)
    pairs = [(mine.path, theirs.path) for mine, theirs in pair_taps(states, [*layers, feature])]
    assert pairs == [("s0", "t1"), ("s1", "t3")]


def test_taps_at_takes_containers_in_the_order_given():
    _, module = zoo_net("resnet", depth=8, width=4)
    taps = taps_at(module, (3, 32, 32), ["net.layer3", "net.layer1"])
    assert [(tap.path, tap.shape) for tap in taps] == [("net.layer3", (16, 8, 8)), ("net.layer1", (4, 32, 32))]


def test_discovery_prefers_the_real_feature_over_its_alias():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Identity(), nn.Linear(4, 5))
    assert [tap.path for tap in discover_taps(module, (3, 8, 8))] == ["0", "2"]


def test_discovery_leaves_no_trace():
    _, module = zoo_net("wrn", depth=10, width=8)
    module.train()
    module.get_submodule("net.bn1").eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes, state = [part.training for part in module.modules()], torch.get_rng_state()
    discover_taps(module, (3, 32, 32))
    assert modes == [part.training for part in module.modules()]
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


def test_pairs_of_two_resnets_are_stage_ends_shallow_to_deep():
    _, student = zoo_net("resnet", depth=8, width=4)
    _, teacher = zoo_net("resnet", depth=20, width=16)
    pairs = pair_taps(discover_taps(student, (3, 32, 32)), discover_taps(teacher, (3, 32, 32)))
    assert [(mine.path, theirs.path) for mine, theirs in pairs] == [
        ("net.layer1.0", "net.layer1.2"),
        ("net.layer2.0", "net.layer2.2"),
        ("net.layer3.0", "net.layer3.2"),
        ("net.flatten", "net.flatten"),
    ]


def test_pairs_across_families_share_resolutions():
    _, student = zoo_net("mobilenetv2", depth=7, width=8)
    _, teacher = zoo_net("resnet", depth=14, width=8)
    pairs = pair_taps(discover_taps(student, (3, 32, 32)), discover_taps(teacher, (3, 32, 32)))
    assert [mine.resolution for mine, _ in pairs] == [(32, 32), (16, 16), (8, 8), (1, 1)]
    assert all(mine.resolution == theirs.resolution for mine, theirs in pairs)


def test_pairing_takes_the_nearest_depth():
    student = [Tap("s", (4, 8, 8), 0.5)]
    teacher = [Tap(f"t{depth}", (9, 8, 8), depth) for depth in (0.1, 0.45, 0.7)]
    assert pair_taps(student, teacher) == [(student[0], teacher[1])]


def test_pairing_needs_equal_rank_and_resolution():
    maps, feature = Tap("m", (4, 1, 1), 0.5), Tap("f", (4,), 0.5)
    assert pair_taps([maps], [feature]) == []
    assert pair_taps([maps], [Tap("o", (4, 2, 1), 0.5)]) == []
    assert pair_taps([], [feature]) == []


def taps(prefix):
    tap = st.tuples(st.sampled_from([(3, 8, 8), (5, 4, 4), (7,)]), st.integers(0, 20))
    return st.lists(tap, max_size=5).map(
        lambda rows: [Tap(f"{prefix}{index}", shape, depth / 20) for index, (shape, depth) in enumerate(rows)]
    )


def best_by_brute_force(student, teacher):
    rows, columns = (sorted(side, key=lambda tap: tap.depth) for side in (student, teacher))
    best = (0, 0.0)
    for count in range(1, min(len(rows), len(columns)) + 1):
        for mine in itertools.combinations(rows, count):
            for theirs in itertools.combinations(columns, count):
                pairs = list(zip(mine, theirs, strict=True))
                if all(len(a.shape) == len(b.shape) and a.shape[1:] == b.shape[1:] for a, b in pairs):
                    cost = sum(abs(a.depth - b.depth) for a, b in pairs)
                    best = max(best, (count, -cost))
    return best


@settings(max_examples=60, deadline=None)
@given(taps("s"), taps("t"))
def test_pairing_is_the_best_of_all_pairings_without_crossings(student, teacher):
    pairs = pair_taps(student, teacher)
    assert len({mine.path for mine, _ in pairs}) == len({theirs.path for _, theirs in pairs}) == len(pairs)
    for side in zip(*pairs, strict=True):
        depths = [tap.depth for tap in side]
        assert depths == sorted(depths)
    assert all(mine.shape[1:] == theirs.shape[1:] for mine, theirs in pairs)
    count, cost = best_by_brute_force(student, teacher)
    assert len(pairs) == count
    assert sum(abs(mine.depth - theirs.depth) for mine, theirs in pairs) == pytest.approx(-cost)


def test_functional_relu_in_place_does_not_hide_the_map_before_it():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.last = nn.Conv2d(4, 4, 3)

        def forward(self, x):
            return self.last(F.relu_(self.conv(x))).mean((2, 3))

    with pytest.raises(ConfigError, match="overwritten in place"):
        taps_at(Late(), (3, 4, 4), ["conv"])
    assert [tap.path for tap in discover_taps(Late(), (3, 4, 4))] == ["last"]


class Plain(nn.Module):
    """A network as people write them: pooled and flattened in `forward`, `ending` says how."""

    def __init__(self, ending="mean"):
        super().__init__()
        self.ending = ending
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.squeeze, self.excite = nn.Linear(6, 2), nn.Linear(2, 6)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(6, 5)

    def pooled(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        if self.ending == "squeeze":
            x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))[:, :, None, None]
        return torch.flatten(self.avgpool(x), 1) if self.ending == "module" else x.mean((2, 3))

    def forward(self, x):
        logits = self.fc(self.pooled(x))
        return F.log_softmax(logits, dim=1) if self.ending == "softmax" else logits


@pytest.mark.parametrize("ending", ["mean", "module", "squeeze", "softmax"])
def test_what_enters_the_classifier_is_the_feature_where_no_module_gives_it(ending):
    torch.manual_seed(0)
    net = Plain(ending)
    taps = discover_taps(net, (3, 8, 8))
    assert [tap.path for tap in taps][-1] == "fc:input" and taps[-1].shape == (6,)
    assert "fc" not in [tap.path for tap in taps]
    assert [tap.path for tap in taps][:2] == ["conv1", "conv2"]
    assert taps_at(net, (3, 8, 8), ["fc:input"]) == [taps[-1]]
    inputs, seen = torch.rand(2, 3, 8, 8), []
    watched, is_input = watched_at(net, "fc:input")
    assert watched is net.fc and is_input and watched_at(net, "conv1") == (net.conv1, False)
    handle = watched.register_forward_pre_hook(lambda _module, arguments: seen.extend(arguments))
    net(inputs)
    handle.remove()
    torch.testing.assert_close(seen, [net.pooled(inputs)])


class Cosine(Plain):
    """Its last linear layer gives an embedding; a parameter makes logits of it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(5, 6))
        self.fc = nn.Linear(6, 6)

    def forward(self, x):
        return F.linear(F.normalize(self.fc(self.pooled(x))), F.normalize(self.weight))


class Squeezed(Plain):
    """A convolution classifies; the linear layer before it gives as many values as there are classes."""

    def __init__(self):
        super().__init__("squeeze")
        self.conv2, self.squeeze, self.excite = nn.Conv2d(4, 5, 3, padding=1), nn.Linear(5, 2), nn.Linear(2, 5)
        self.fc = nn.Conv2d(5, 5, 1)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))[:, :, None, None]
        return self.fc(x).mean((2, 3))


class Deep(Squeezed):
    """A convolution that sees neighbours classifies."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Conv2d(5, 5, 3)


@pytest.mark.parametrize(("net", "inputs"), [(Cosine(), []), (Squeezed(), ["fc:input"]), (Deep(), [])])
def test_the_last_layer_is_a_classifier_only_where_it_gives_the_output_place_by_place(net, inputs):
    paths = [tap.path for tap in discover_taps(net, (3, 8, 8))]
    assert [path for path in paths if path.endswith(":input")] == inputs
    assert inputs or paths[-1] == "fc"


@pytest.mark.parametrize("place", ["before", "after"])
def test_feature_of_a_convolution_that_classifies_is_the_mean_of_what_enters_it(place):
    torch.manual_seed(0)
    pool = nn.AdaptiveAvgPool2d(1)
    head = nn.Sequential(nn.Dropout(), nn.Conv2d(6, 5, 1))
    body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU())
    stages = [body, pool, head] if place == "before" else [body, head, pool]
    net = nn.Sequential(*stages, nn.Flatten())
    path = f"{stages.index(head)}.1:input"
    taps = discover_taps(net, (3, 9, 9))
    assert [(tap.path, tap.shape) for tap in taps] == [("0.1", (6, 4, 4)), (path, (6,))]
    inputs, seen = torch.rand(2, 3, 9, 9), []
    watched, is_input = watched_at(net, path)
    assert watched is head[1] and is_input
    handle = watched.register_forward_pre_hook(lambda _module, arguments: seen.append(feature_entering(*arguments)))
    logits = net.eval()(inputs)
    handle.remove()
    torch.testing.assert_close(seen, [body(inputs).mean((2, 3))])
    torch.testing.assert_close(logits, seen[0] @ head[1].weight.flatten(1).T + head[1].bias)


def test_what_comes_after_the_classifier_is_no_feature():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.LogSoftmax(1))
    assert [tap.path for tap in discover_taps(net, (3, 8, 8))] == ["0", "2"]


def test_only_inputs_of_layers_that_may_classify_can_be_tapped():
    assert {"fc:input", "fc", "conv1"} <= tap_paths(Plain()) and "conv1:input" not in tap_paths(Plain())
    with pytest.raises(ConfigError, match="unknown module path 'conv1:input'"):
        taps_at(Plain(), (3, 8, 8), ["conv1:input"])
    with pytest.raises(ConfigError, match="gives 0 tensors"):
        taps_at(Plain("squeeze"), (3, 8, 8), ["squeeze:input"])


def test_stage_that_ends_in_a_shared_activation_is_tapped_before_it():
    act = nn.ReLU()
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 1), act), nn.Sequential(nn.Conv2d(4, 4, 1), act), nn.Flatten(), nn.Linear(64, 2)
    )
    assert [tap.path for tap in discover_taps(module, (3, 4, 4))] == ["1.0", "2"]
