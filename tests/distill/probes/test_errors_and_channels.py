"""Overlaps by sets, by planted permutations, and by drawing at random."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distill.probes import channels, error_overlap_of, errors, matching_channels, top_channel_overlap


def test_error_overlap_equals_sets():
    rng = np.random.default_rng(0)
    decided, taught, labels = rng.integers(0, 3, (3, 200))
    mine = {row for row in range(200) if decided[row] != labels[row]}
    theirs = {row for row in range(200) if taught[row] != labels[row]}
    same = {row for row in mine if decided[row] == taught[row]}
    figures = error_overlap_of(*map(torch.from_numpy, (decided, taught, labels)))
    assert figures == {"overlap": len(mine & theirs) / len(mine), "same_answer": len(same) / len(mine)}


def test_errors_at_random_places_overlap_by_the_trainers_error_rate():
    rng = np.random.default_rng(1)
    labels = np.zeros(200_000, np.int64)
    taught, decided = ((rng.random(labels.size) < rate).astype(np.int64) for rate in (0.3, 0.1))
    figures = error_overlap_of(*map(torch.from_numpy, (decided, taught, labels)))
    assert figures["overlap"] == pytest.approx(0.3, abs=0.015)


def test_a_network_without_errors_has_no_overlap():
    labels = torch.tensor([0, 1, 2])
    assert all(math.isnan(value) for value in error_overlap_of(labels, 2 - labels, labels).values())


def test_errors_reports_rates_and_chance(models, split, pixels_of):
    figures = errors(models, split)
    with torch.no_grad():
        decided = {role: models[role](pixels_of(split)).argmax(dim=1).numpy() for role in models}
    rate = np.mean(decided["teacher"] != split.labels)
    assert figures["teacher.error_rate"] == figures["chance.overlap"] == pytest.approx(rate)
    assert figures["error_rate"] == pytest.approx(np.mean(decided["student"] != split.labels))
    mine = decided["student"] != split.labels
    assert figures["overlap"] == pytest.approx(np.mean((decided["teacher"] != split.labels)[mine]))


def test_top_channels_equal_sets_and_random_ones_overlap_by_chance():
    rng = np.random.default_rng(0)
    mine, theirs = rng.random((400, 12)), rng.random((400, 30))
    expected = np.mean(
        [len(set(np.argsort(-a)[:5]) & set(np.argsort(-b)[:5])) / 5 for a, b in zip(mine, theirs, strict=True)]
    )
    found = top_channel_overlap(torch.from_numpy(mine), torch.from_numpy(theirs), k=5)
    assert found == pytest.approx(expected)
    assert found == pytest.approx(5 / 30, abs=0.02)


def test_matching_recovers_a_planted_permutation():
    rng = np.random.default_rng(0)
    student = rng.normal(size=(50, 6))
    order = rng.permutation(9)[:6]
    teacher = rng.normal(size=(50, 9))
    teacher[:, order] = 2 * student + 1
    assert np.array_equal(matching_channels(torch.from_numpy(student), torch.from_numpy(teacher)), order)


def test_matching_ignores_dead_channels():
    student = torch.zeros(10, 2, dtype=torch.float64)
    student[:, 1] = torch.arange(10)
    teacher = torch.stack([torch.arange(10.0), torch.ones(10), torch.zeros(10)], dim=1)
    assert matching_channels(student, teacher)[1] == 0


class _Wide(nn.Module):
    def __init__(self, order, width=12):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, width, 5, padding=2)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(width, 4)
        with torch.no_grad():
            self.conv.weight.copy_(self.conv.weight[order])
            self.conv.bias.copy_(self.conv.bias[order])

    def forward(self, inputs):
        return self.linear(self.flatten(self.pool(self.relu(self.conv(inputs)))))


def test_shuffled_channels_correspond_once_matched(split):
    straight = torch.arange(12)
    order = torch.roll(straight, 5)
    figures = channels({"teacher": _Wide(order), "student": _Wide(straight)}, split, k=3)
    assert figures["matched_overlap"] == 1
    assert figures["overlap"] < 1
    assert figures["chance.overlap"] == figures["chance.matched_overlap"] == 0.25


def test_overlap_equals_loops(models, split, pixels_of):
    figures = channels(models, split, k=2)
    tops = {}
    with torch.no_grad():
        for role in ("teacher", "student"):
            net = models[role]
            pooled = net.net.flatten(net.net.pool(net.net[:6](net.normalize(pixels_of(split))))).double().numpy()
            means = [pooled[split.labels == label].mean(axis=0) for label in range(4)]
            tops[role] = [set(np.argsort(-row)[:2]) for row in means]
    shares = [len(a & b) / 2 for a, b in zip(tops["teacher"], tops["student"], strict=True)]
    assert figures["overlap"] == pytest.approx(np.mean(shares))
    assert figures["chance.overlap"] == 2 / 32
    assert figures["chance.matched_overlap"] == 2 / 8


def test_a_narrower_teacher_is_compared_by_number_only(models, split):
    figures = channels({"teacher": models["student"], "student": models["teacher"]}, split, k=2)
    assert "matched_overlap" not in figures
    assert "chance.matched_overlap" not in figures
