"""Equal decisions counted by hand on networks whose decisions are known."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.distill.probes import consensus, invariance


class _Threshold(nn.Module):
    """Class 1 where the mean of a region is above a threshold; indifferent to everything else."""

    def __init__(self, threshold, region=slice(None)):
        super().__init__()
        self.region = region
        self.level = nn.Parameter(torch.tensor(threshold))

    def forward(self, inputs):
        bright = inputs[:, :, self.region, self.region].mean(dim=(1, 2, 3)) - self.level
        return torch.stack([-bright, bright], dim=1)


def test_strength_0_changes_no_decision(models, split):
    figures = invariance(models, split, strengths=(0.0,))
    assert len(figures) == 9
    assert set(figures.values()) == {1.0}


def test_a_network_that_does_not_look_is_invariant(split):
    figures = invariance({"student": _Threshold(5.0)}, split)
    assert set(figures.values()) == {1.0}


def test_colour_agreement_is_that_of_the_changed_brightness(split, pixels_of):
    # contrast keeps the mean of a picture, brightness scales it: the decision depends on the draw alone
    means = pixels_of(split).mean(dim=(1, 2, 3))
    threshold = float(means.median())
    figures = invariance({"student": _Threshold(threshold)}, split, changes=("colour",), strengths=(0.1, 1.0))
    assert figures["colour@1"] < figures["colour@0.1"] < 1
    never = float((means / threshold - 1).abs().gt(0.45).double().mean())
    assert figures["colour@1"] >= never


def test_shifts_beyond_the_picture_matter_to_a_corner_only(split):
    corner, whole = _Threshold(0.35, slice(0, 2)), _Threshold(0.0)
    roles = {"student": corner, "independent": whole}
    figures = invariance(roles, split, changes=("shift",), strengths=(1.0,))
    assert figures["shift@1"] < 1
    assert figures["independent.shift@1"] == 1


def test_consensus_counts_equal_decisions(models, split, pixels_of):
    figures = consensus(models, split, domains=("as-is", "inverted"))
    for domain, inputs in (("as-is", pixels_of(split)), ("inverted", 1 - pixels_of(split))):
        with torch.no_grad():
            decided = {
                role: models[role](inputs).argmax(dim=1).numpy() for role in ("teacher", "student", "independent")
            }
        assert figures[domain] == np.mean(decided["teacher"] == decided["student"])
        assert figures[f"independent.{domain}"] == np.mean(decided["teacher"] == decided["independent"])


def test_consensus_does_not_read_labels(models, split):
    other = type(split)(split.inputs, (split.labels + 1) % 4, split.task)
    assert consensus(models, split) == consensus(models, other)


def test_fewer_images_are_drawn_without_repetition(split):
    from edgekd.distill.probes.pictures import draw

    drawn = draw(split, images=20, seed=3)
    rows = {picture.tobytes() for picture in drawn.pixels}
    assert len(drawn) == len(rows) == 20
    assert rows <= {picture.tobytes() for picture in split.inputs.gather(np.arange(60))}
    assert [picture.tobytes() for picture in draw(split, images=20, seed=4).pixels] != list(rows)
    assert np.array_equal(draw(split, images=60, seed=3).labels, split.labels)
    with pytest.raises(Exception, match="images is 0"):
        draw(split, images=0, seed=3)
