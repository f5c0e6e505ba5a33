"""Changes of pictures against colorsys, Pillow and scipy."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from edgekd.distill.probes.changes import (
    colour_jittered,
    cropped,
    edges,
    grey,
    hue_turned,
    inverted,
    shifted,
    silhouettes,
)


@pytest.fixture
def colour():
    return torch.from_numpy(np.random.default_rng(0).random((6, 3, 7, 7)).astype(np.float32))


def test_hue_turns_as_in_colorsys(colour):
    turns = torch.linspace(-0.6, 0.6, 6).view(-1, 1, 1, 1)
    found = hue_turned(colour, turns)
    for row in range(6):
        for y, x in ((0, 0), (3, 4), (6, 6)):
            hue, saturation, value = colorsys.rgb_to_hsv(*colour[row, :, y, x].double().tolist())
            expected = colorsys.hsv_to_rgb((hue + float(turns[row])) % 1, saturation, value)
            assert found[row, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_hue_leaves_grey_pictures_alone():
    plain = torch.full((2, 3, 4, 4), 0.4)
    assert torch.allclose(hue_turned(plain, torch.full((2, 1, 1, 1), 0.3)), plain)


def test_jitter_of_strength_0_changes_nothing(colour):
    for inputs in (colour, colour[:, :1]):
        assert torch.allclose(colour_jittered(inputs, np.random.default_rng(0), strength=0.0), inputs, atol=1e-6)


def test_jitter_of_grey_pictures_is_brightness_and_contrast():
    inputs = torch.from_numpy(np.random.default_rng(1).uniform(0.3, 0.5, (40, 1, 6, 6)).astype(np.float32))
    found = colour_jittered(inputs, np.random.default_rng(0), strength=0.5)
    for before, after in zip(inputs.flatten(1).numpy(), found.flatten(1).numpy(), strict=True):
        slope, offset = np.polyfit(before, after, 1)
        assert after == pytest.approx(slope * before + offset, abs=1e-5)
        factor = after.mean() / before.mean()
        assert 0.8 <= factor <= 1.2
        assert 0.8 <= slope / factor <= 1.2
    assert np.ptp([row.mean() for row in found]) > 0.1


def test_jitter_stays_in_range_and_draws_for_each_picture(colour):
    found = colour_jittered(colour[:1].repeat(4, 1, 1, 1), np.random.default_rng(0), strength=1.0)
    assert found.min() >= 0 and found.max() <= 1
    assert all(not torch.equal(found[0], other) for other in found[1:])


def test_grey_is_luma():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).convert("L"), dtype=float)
    found = grey(torch.from_numpy(pixels / 255.0).permute(2, 0, 1).unsqueeze(0)) * 255
    assert found[0, 0].numpy() == pytest.approx(expected, abs=1)


def test_shifts_move_by_whole_pixels_within_reach(colour):
    many = colour.repeat(20, 1, 1, 1)
    found = shifted(many, np.random.default_rng(0), pixels=2)
    moves = set()
    for before, after in zip(many.numpy(), found.numpy(), strict=True):
        fitting = [
            (down, right)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(ndimage.shift(before, (0, down, right), order=0, cval=0), after)
        ]
        assert len(fitting) == 1
        moves.update(fitting)
    assert len(moves) == 25
    assert torch.equal(shifted(colour, np.random.default_rng(0), pixels=0), colour)


def test_crops_are_windows_resized_as_pillow_does(colour):
    found = cropped(colour, np.random.default_rng(0), scale=0.6)
    for before, after in zip(colour.numpy(), found.numpy(), strict=True):
        candidates = [
            np.stack(
                [
                    np.asarray(Image.fromarray(plane[top : top + 4, left : left + 4]).resize((7, 7), Image.BILINEAR))
                    for plane in before
                ]
            )
            for top in range(4)
            for left in range(4)
        ]
        assert min(np.abs(candidate - after).max() for candidate in candidates) < 1e-5
    assert torch.equal(cropped(colour, np.random.default_rng(0), scale=1.0), colour)


def test_edges_are_sobel(colour):
    plain = grey(colour)[0, 0].double().numpy()
    length = np.hypot(*(ndimage.sobel(plain, axis=axis, mode="nearest") for axis in (0, 1)))
    assert edges(colour)[0, 1].numpy() == pytest.approx(length / length.max(), abs=1e-5)
    assert edges(torch.full((1, 3, 4, 4), 0.5)).abs().max() == 0


def test_silhouettes_and_negatives(colour):
    plain = grey(colour)[2, 0].numpy()
    assert np.array_equal(silhouettes(colour)[2, 0].numpy(), (plain > plain.mean()).astype(np.float32))
    assert torch.equal(inverted(colour), 1 - colour)
