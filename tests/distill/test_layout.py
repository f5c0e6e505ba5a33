"""Maps lie channels last where that is faster and every network takes it."""

import edgekd_kernels.functional as K
import pytest
import torch
from torch import nn

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.data import augmentation
from edgekd.distill import RunOptions, TrainSettings, layout, load_recipe, run_recipe
from edgekd.distill.estimate import estimate
from edgekd.distill.layout import lay_out
from edgekd.distill.net import TracedNet
from edgekd.distill.roles import open_session
from edgekd.distill.session import Session
from edgekd.models import build

CPU, OTHER = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def _x86(monkeypatch):
    monkeypatch.setattr(layout.platform, "machine", lambda: "x86_64")


class Viewing(nn.Module):
    """A network that takes maps channel by channel only."""

    def __init__(self):
        super().__init__()
        self.conv, self.flatten, self.fc = nn.Conv2d(3, 16, 3), nn.Identity(), nn.Linear(16 * 36, 2)

    def forward(self, pictures):
        maps = self.conv(pictures)
        return self.fc(self.flatten(maps.view(len(maps), -1)))


class Flattening(Viewing):
    """The same for any layout."""

    def forward(self, pictures):
        return self.fc(self.flatten(self.conv(pictures).flatten(1)))


def _session(*kinds, shape=(3, 8, 8)):
    nets = {str(index): TracedNet(kind(), penultimate="flatten") for index, kind in enumerate(kinds)}
    return Session(nets, shape, 0)


def _is_last(session):
    weights = [net.backbone.conv.weight for net in session.nets.values()]
    return [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights]


def test_channels_come_last_on_a_cpu_and_only_where_all_networks_take_that():
    taking = _session(Flattening, Flattening)
    assert lay_out(taking, TrainSettings(), CPU).channels_last is True
    assert _is_last(taking) == [True, True]
    refusing = _session(Flattening, Viewing)
    assert lay_out(refusing, TrainSettings(), CPU).channels_last is False
    assert _is_last(refusing) == [False, False]
    tokens = _session(Flattening, shape=(16,))
    assert lay_out(tokens, TrainSettings(), CPU).channels_last is False


@pytest.mark.parametrize("precision, expected", [("no", False), ("bf16", True)])
def test_another_device_has_them_last_in_mixed_precision(precision, expected):
    assert lay_out(_session(Flattening), TrainSettings(precision=precision), OTHER).channels_last is expected


@pytest.mark.parametrize("kind, asked", [(Viewing, True), (Flattening, False)])
def test_what_is_asked_for_is_done(kind, asked):
    session = _session(kind)
    assert lay_out(session, TrainSettings(channels_last=asked), CPU).channels_last is asked
    assert _is_last(session) == [asked]


def _of(*layers):
    class Made(Flattening):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Sequential(*layers), nn.Identity()

    return Made


USUAL = [
    nn.Conv2d(3, 16, 3),
    nn.Conv2d(1, 32, 5, stride=2),
    nn.Conv2d(16, 48, 1, stride=2),
    nn.Conv2d(32, 32, 3, groups=32),
]
UNUSUAL = [
    nn.Conv2d(3, 16, 1),
    nn.Conv2d(3, 8, 3),
    nn.Conv2d(8, 16, 3),
    nn.Conv2d(16, 24, 3),
    nn.Conv2d(32, 32, 3, groups=4),
    nn.ConvTranspose2d(16, 16, 2),
]


@pytest.mark.parametrize("layer, expected", [*((one, True) for one in USUAL), *((one, False) for one in UNUSUAL)])
def test_on_a_cpu_only_usual_convolutions_are_laid_out_by_themselves(layer, expected, monkeypatch):
    session = _session(_of(layer), shape=(layer.in_channels, 8, 8))
    assert lay_out(session, TrainSettings(), CPU).channels_last is expected
    monkeypatch.setattr(layout.platform, "machine", lambda: "aarch64")
    assert lay_out(session, TrainSettings(), CPU).channels_last is False


@pytest.mark.parametrize("asked", [{"channels_last": True}, {"compile": "default"}])
def test_what_would_corrupt_memory_is_refused(asked, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    settings = TrainSettings(**asked)
    for layer in (nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(12, 8, 1, stride=(1, 2))):
        session = _session(_of(layer), shape=(layer.in_channels, 8, 8))
        with pytest.raises(ConfigError, match=r"0\.backbone\.conv\.0.*corrupts memory.*train\.compile=no"):
            lay_out(session, settings, CPU)
        assert lay_out(session, TrainSettings(), CPU).channels_last is False
    for layer in (nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, stride=2), nn.Conv2d(8, 8, 1, stride=2)):
        lay_out(_session(_of(layer), shape=(layer.in_channels, 8, 8)), settings, CPU)
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    lay_out(session, settings, CPU)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    with pytest.raises(ConfigError, match="corrupts memory"):
        lay_out(session, settings, CPU)


WIDE = NetSpec("resnet", 8, 16, 8, 1, 4, (0.3,), (0.2,))


@pytest.mark.parametrize("asked, expected", [(None, True), (True, True), (False, False)])
def test_training_sees_maps_in_that_layout_and_returns_a_plain_student(dataset, settings, monkeypatch, asked, expected):
    seen = []
    forward = TracedNet.forward

    def watched(net, inputs):
        trace = forward(net, inputs)
        seen.extend(feats.is_contiguous(memory_format=torch.channels_last) for feats in trace.feats.values())
        return trace

    monkeypatch.setattr(TracedNet, "forward", watched)
    outcome = _trained(dataset, settings.model_copy(update={"channels_last": asked}))
    assert seen and set(seen) == {expected}
    assert all(weight.is_contiguous() for weight in outcome.student.parameters())


def test_a_term_that_views_maps_is_told_what_to_set(dataset, settings, monkeypatch):
    def viewing(predicted, taught, **_):
        pairs = zip(predicted, taught, strict=True)
        return sum((one.view(len(one), -1) - two.view(len(two), -1)).square().mean(1) for one, two in pairs)

    monkeypatch.setattr(K, "hint_mse_grouped", viewing)
    with pytest.raises(ConfigError, match=r"use reshape or flatten there, or set train\.channels_last=false"):
        _trained(dataset, settings)
    with pytest.raises(ConfigError, match=r"set train\.channels_last=false"):
        _estimated(dataset, settings)
    _trained(dataset, settings.model_copy(update={"channels_last": False}))


def _trained(dataset, settings):
    return run_recipe(
        load_recipe("fitnet"),
        student=WIDE,
        teacher=(WIDE, build(WIDE)),
        dataset=dataset,
        settings=settings.model_copy(update={"epochs": 1}),
        options=RunOptions(),
    )


def _estimated(dataset, settings):
    recipe = load_recipe("fitnet")
    given = {"student": WIDE, "teacher": (WIDE, build(WIDE)), "kind": dataset.task.kind, "seed": 0}
    session = open_session(recipe, input_shape=dataset.input_shape, **given)
    return estimate(recipe, session, dataset=dataset, settings=settings, augment=augmentation("none"))
