"""Planes by linear algebra, label maps by scikit-learn's Jaccard index."""

import numpy as np
import pytest
import torch
from sklearn.metrics import jaccard_score
from torch import nn

from edgekd.core.errors import DataError
from edgekd.data import ArrayImages, Split
from edgekd.distill.probes import boundary, label_map_iou, plane_through


@pytest.fixture
def corners():
    return torch.from_numpy(np.random.default_rng(0).random((3, 1, 4, 4)).astype(np.float32))


def test_every_point_lies_on_the_plane_and_the_three_inside_it(corners):
    points = plane_through(corners, side=9).flatten(1).double().numpy()
    rows = corners.flatten(1).double().numpy()
    basis = np.stack([rows[1] - rows[0], rows[2] - rows[0]], axis=1)
    shares, *_ = np.linalg.lstsq(basis, (points - rows[0]).T, rcond=None)
    assert np.abs(basis @ shares - (points - rows[0]).T).max() < 1e-5
    assert shares.min() < 0 and shares.max() > 1


def test_the_grid_is_a_rectangle_of_equal_steps(corners):
    grid = plane_through(corners, side=5, margin=0.25).flatten(1).double().numpy().reshape(5, 5, -1)
    along, across = np.diff(grid, axis=0), np.diff(grid, axis=1)
    assert np.abs(along - along[0, 0]).max() < 1e-6
    assert np.abs(across - across[0, 0]).max() < 1e-6
    assert abs(np.sum(along[0, 0] * across[0, 0])) < 1e-6
    first, second, third = corners.flatten(1).double().numpy()
    direction = (second - first) / np.linalg.norm(second - first)
    height = np.linalg.norm((third - first) - ((third - first) @ direction) * direction)
    assert np.linalg.norm(grid[0, 4] - grid[0, 0]) == pytest.approx(1.5 * height, rel=1e-5)


def test_without_margin_the_first_picture_is_a_grid_point_where_it_is_a_corner():
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]).view(3, 1, 1, 2)
    grid = plane_through(corners, side=3, margin=0.0).view(3, 3, 2)
    assert torch.allclose(grid[0, 0], torch.tensor([0.0, 0.0]))
    assert torch.allclose(grid[2, 0], torch.tensor([2.0, 0.0]))
    assert torch.allclose(grid[1, 2], torch.tensor([1.0, 3.0]))


def test_pictures_on_one_line_are_refused(corners):
    line = torch.stack([corners[0], corners[1], 2 * corners[1] - corners[0]])
    for degenerate in (line, corners[:1].repeat(3, 1, 1, 1)):
        with pytest.raises(DataError, match="on one line"):
            plane_through(degenerate, side=4)


def test_iou_equals_the_jaccard_index():
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 5, (2, 300))
    other[:120] = one[:120]
    expected = jaccard_score(one, other, average="macro")
    assert label_map_iou(torch.from_numpy(one), torch.from_numpy(other)) == pytest.approx(expected)
    assert label_map_iou(torch.tensor([0, 0]), torch.tensor([1, 1])) == 0
    assert label_map_iou(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_iou_of_half_planes(split):
    # the same boundary and its mirror image: all in common, nothing in common
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    mirrored = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with torch.no_grad():
        mirrored[1].weight.copy_(network[1].weight.flip(0))
        mirrored[1].bias.copy_(network[1].bias.flip(0))
    figures = boundary({"teacher": network, "student": network, "independent": mirrored}, split, triplets=5, side=10)
    assert figures["iou"] == figures["same_label"] == 1
    assert figures["independent.same_label"] == 0
    assert figures["independent.iou"] == 0


def test_figures_are_means_over_planes(models, split):
    together = boundary(models, split, triplets=6, side=6, seed=2)
    assert 0 < together["iou"] < 1
    assert together["iou"] <= together["same_label"] + 1e-9 or together["iou"] > 0


def test_fewer_than_three_pictures_are_refused(models, split):
    few = Split(ArrayImages(np.zeros((2, 8, 8, 1), np.uint8)), np.zeros(2, np.int64), split.task)
    with pytest.raises(DataError, match="through three"):
        boundary(models, few)
