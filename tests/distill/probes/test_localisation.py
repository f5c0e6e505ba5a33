"""Grad-CAM against its closed form for a linear head, and the count of wins by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.errors import DataError
from edgekd.distill.probes import grad_cam, localisation, win_rate


class _Pooled(nn.Module):
    """Convolution, ReLU, average pool, linear layer: the gradient by the map is the same at all positions."""

    def __init__(self, seed, stride=1):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 5, 3, padding=1, stride=stride)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(5, 4)

    def forward(self, inputs):
        return self.linear(self.flatten(self.pool(self.relu(self.conv(inputs)))))


def _closed_form(network, inputs, labels):
    with torch.no_grad():
        maps = network.relu(network.conv(inputs)).double().numpy()
    weights = network.linear.weight.detach().double().numpy()[labels] / maps[0, 0].size
    return np.maximum(0, np.einsum("nc,nchw->nhw", weights, maps))


def test_grad_cam_of_a_pooled_head_is_its_weighted_map(split, pixels_of):
    network = _Pooled(0).eval()
    inputs = pixels_of(split)
    found = grad_cam(network, inputs, torch.from_numpy(split.labels), "relu")
    assert found.numpy() == pytest.approx(_closed_form(network, inputs, split.labels), abs=1e-6)


def test_grad_cam_works_on_frozen_networks(split, pixels_of):
    network = _Pooled(0).eval().requires_grad_(False)
    assert grad_cam(network, pixels_of(split), torch.from_numpy(split.labels), "relu").sum() > 0


@pytest.mark.parametrize("stride", [1, 2])
def test_win_rate_equals_counting_by_hand(stride, split, pixels_of):
    networks = [_Pooled(seed, stride).eval() for seed in range(3)]
    inputs = pixels_of(split)
    maps = [_closed_form(network, inputs, split.labels).reshape(len(split), -1) for network in networks]
    wins, count = 0.0, 0
    for teacher, student, independent in zip(*maps, strict=True):
        if not teacher.any():
            continue
        near, far = (
            teacher @ other / (np.linalg.norm(teacher) * np.linalg.norm(other)) if other.any() else 0.0
            for other in (student, independent)
        )
        wins, count = wins + (near > far) + 0.5 * (near == far), count + 1
    roles = dict(zip(("teacher", "student", "independent"), networks, strict=True))
    figures = localisation(roles, split)
    assert figures["images"] == count
    assert figures["win_rate"] == pytest.approx(wins / count, abs=0.6 / count)


def test_maps_of_different_size_are_compared(split):
    roles = {"teacher": _Pooled(0), "student": _Pooled(1, stride=2), "independent": _Pooled(2, stride=2)}
    assert 0 <= localisation(roles, split)["win_rate"] <= 1


def test_ties_count_half():
    assert win_rate(torch.tensor([1.0, 0.0, 0.5, 0.5]), torch.tensor([0.0, 1.0, 0.5, 0.5])) == 0.5
    assert win_rate(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 0.5])) == 0.75


def test_a_teacher_that_shows_nothing_is_an_error(split):
    blind = _Pooled(0)
    nn.init.constant_(blind.linear.weight, -1.0)
    with pytest.raises(DataError, match="zero on every picture"):
        localisation({"teacher": blind, "student": _Pooled(1), "independent": _Pooled(2)}, split)


def test_pictures_on_which_the_teacher_shows_nothing_are_left_out(split):
    half = _Pooled(0)
    with torch.no_grad():
        half.linear.weight[:2] = -1.0
    roles = {"teacher": half, "student": half, "independent": _Pooled(2)}
    figures = localisation(roles, split)
    assert 0 < figures["images"] <= np.sum(split.labels >= 2)
    assert figures["win_rate"] == 1.0
