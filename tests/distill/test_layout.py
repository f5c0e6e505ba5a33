"""Maps lie channels last where that is faster and every network takes it."""

import edgekd_kernels.functional as K
import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError
from edgekd.distill import TrainSettings
from edgekd.distill.layout import lay_out
from edgekd.distill.net import TracedNet
from edgekd.distill.session import Session

CPU, OTHER = torch.device("cpu"), torch.device("meta")


class Viewing(nn.Module):
    """A network that takes maps channel by channel only."""

    def __init__(self):
        super().__init__()
        self.conv, self.flatten, self.fc = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Linear(4 * 36, 2)

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


@pytest.mark.parametrize("asked, expected", [(None, True), (True, True), (False, False)])
def test_training_sees_maps_in_that_layout_and_returns_a_plain_student(run, settings, monkeypatch, asked, expected):
    seen = []
    forward = TracedNet.forward

    def watched(net, inputs):
        trace = forward(net, inputs)
        seen.extend(feats.is_contiguous(memory_format=torch.channels_last) for feats in trace.feats.values())
        return trace

    monkeypatch.setattr(TracedNet, "forward", watched)
    outcome = run("fitnet", settings=settings.model_copy(update={"channels_last": asked, "epochs": 1}))
    assert seen and set(seen) == {expected}
    assert all(weight.is_contiguous() for weight in outcome.student.parameters())


def test_a_term_that_views_maps_is_told_what_to_set(run, settings, monkeypatch):
    def viewing(predicted, taught, **_):
        pairs = zip(predicted, taught, strict=True)
        return sum((one.view(len(one), -1) - two.view(len(two), -1)).square().mean(1) for one, two in pairs)

    monkeypatch.setattr(K, "hint_mse_grouped", viewing)
    once = settings.model_copy(update={"epochs": 1})
    with pytest.raises(ConfigError, match=r"use reshape or flatten there, or set train\.channels_last=false"):
        run("fitnet", settings=once)
    run("fitnet", settings=once.model_copy(update={"channels_last": False}))
