"""Networks between two sizes, against a search over every depth and width with MACs counted by hand."""

import math
from dataclasses import replace

import pytest
import torch

from edgekd.core.artifacts import NetSpec
from edgekd.core.errors import ConfigError
from edgekd.models import FAMILIES, build, count_macs, spec_between

SHARES = (0.05, 0.25, 0.333, 0.5, 0.667, 0.8, 0.95)


def _resnet(depth, width, resolution=8, **options):
    return NetSpec("resnet", depth, width, resolution, 1, 10, (0.5,), (0.2,), options)


def _macs_of_resnet(depth, width, resolution=8):
    """Stem, three stages of 3x3 convolutions at full, half and quarter resolution, classifier; shortcuts A are free."""
    blocks, pixels = (depth - 2) // 6, resolution * resolution
    total = 9 * 1 * width * pixels
    inputs = width
    for stage in range(3):
        outputs, area = width * 2**stage, pixels // 4**stage
        total += 9 * inputs * outputs * area + 9 * outputs * outputs * area * (2 * blocks - 1)
        inputs = outputs
    return total + inputs * 10


def _nearest(small, large, share):
    least, most = (_macs_of_resnet(spec.depth, spec.width) for spec in (small, large))
    wanted = math.exp((1 - share) * math.log(least) + share * math.log(most))
    sizes = [
        (depth, width)
        for depth in {small.depth, *FAMILIES["resnet"].depths}
        for width in {small.width, *FAMILIES["resnet"].widths}
        if small.depth <= depth <= large.depth and width >= small.width
    ]
    between = [size for size in sizes if least < _macs_of_resnet(*size) < most]
    return min(between, key=lambda size: abs(math.log(_macs_of_resnet(*size) / wanted)))


def test_macs_by_hand_are_those_of_the_network():
    for depth, width in ((8, 2), (14, 12), (20, 16)):
        assert count_macs(build(_resnet(depth, width)), (1, 8, 8)) == _macs_of_resnet(depth, width)


@pytest.mark.parametrize("small, large", [((8, 2), (20, 16)), ((8, 4), (14, 48)), ((8, 3), (32, 8))])
def test_it_is_the_nearest_of_all_sizes(small, large):
    small, large = _resnet(*small), _resnet(*large)
    for share in (0.333, 0.5, 0.667):
        found = spec_between(small, large, share=share)
        assert (found.depth, found.width) == _nearest(small, large, share)


def test_it_grows_with_the_share_and_stays_strictly_between():
    small, large = _resnet(8, 2), _resnet(20, 16)
    macs = []
    for share in SHARES:
        found = spec_between(small, large, share=share)
        macs.append(_macs_of_resnet(found.depth, found.width))
    assert macs == sorted(macs)
    assert _macs_of_resnet(8, 2) < macs[0] < macs[-1] < _macs_of_resnet(20, 16)
    assert len(set(macs)) == len(SHARES)


def test_it_keeps_the_students_family_resolution_and_options():
    small = replace(_resnet(8, 4, shortcut="B"), mean=(0.1,), std=(0.7,))
    large = NetSpec("wrn", 16, 32, 8, 1, 10, (0.5,), (0.2,))
    found = spec_between(small, large, share=0.5)
    assert replace(found, depth=8, width=4) == small
    assert found.depth > 8 or found.width > 4


def test_it_draws_no_chance():
    before = torch.get_rng_state()
    spec_between(_resnet(8, 2), _resnet(8, 8), share=0.5)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "small, large, fragment",
    [
        (_resnet(8, 4), _resnet(8, 4), "no larger than student"),
        (_resnet(8, 8), _resnet(8, 4), "no larger than student"),
        (_resnet(8, 48), _resnet(8, 64), "no resnet lies between"),
        (_resnet(8, 4), replace(_resnet(8, 8), family="timm"), "not one of edgekd's families"),
    ],
)
def test_where_nothing_lies_between_it_says_so(small, large, fragment):
    with pytest.raises(ConfigError, match=fragment):
        spec_between(small, large, share=0.5)
