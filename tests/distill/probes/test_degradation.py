"""Degradations by their own statistics and Pillow; curves start at the clean value."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import ConfigError
from edgekd.distill import evaluate
from edgekd.distill.probes import degradation, degraded

KINDS = ("noise", "blur", "jpeg", "downsampling", "occlusion")


@pytest.fixture(params=[1, 3])
def pictures(request):
    rng = np.random.default_rng(0)
    smooth = np.linspace(60, 190, 32)[:, None, None] + rng.normal(0, 8, (4, 32, 32, request.param))
    return smooth.astype(np.uint8)


def _rng():
    return np.random.default_rng(5)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_0_is_the_picture_itself(kind, pictures):
    assert np.array_equal(degraded(pictures, kind, 0, _rng()), pictures)


@pytest.mark.parametrize("kind", KINDS)
def test_severities_grow_and_repeat(kind, pictures):
    before = pictures.copy()
    distances = []
    for severity in range(6):
        one, other = (degraded(pictures, kind, severity, _rng()) for _ in range(2))
        assert one.shape == pictures.shape
        assert one.dtype == np.uint8
        assert np.array_equal(one, other)
        distances.append(np.abs(one.astype(float) - pictures).mean())
    assert distances[0] == 0
    assert all(near < 1.05 * far for near, far in itertools.pairwise(distances))
    assert distances[5] > 1.1 * distances[1] > 0
    assert np.array_equal(pictures, before)


def test_noise_has_its_deviation():
    grey = np.full((50, 16, 16, 1), 128, np.uint8)
    noisy = degraded(grey, "noise", 2, _rng()).astype(float)
    assert noisy.std() == pytest.approx(0.16 * 255, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=1)


def test_occlusion_covers_its_share_at_different_places():
    white = np.full((40, 20, 20, 3), 255, np.uint8)
    covered = degraded(white, "occlusion", 3, _rng())
    assert set(np.unique(covered)) == {128, 255}
    for picture in covered[..., 0]:
        rows, columns = np.nonzero(picture == 128)
        side = round(20 * np.sqrt(0.24))
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1, len(rows)) == (side, side, side * side)
    assert len({picture.tobytes() for picture in covered}) > 10


def test_jpeg_and_downsampling_equal_pillow(pictures):
    flat = pictures[0, :, :, 0] if pictures.shape[3] == 1 else pictures[0]
    stream = io.BytesIO()
    Image.fromarray(flat).save(stream, "JPEG", quality=25)
    recoded = np.asarray(Image.open(stream)).reshape(pictures[0].shape)
    assert np.array_equal(degraded(pictures, "jpeg", 3, _rng())[0], recoded)
    small = Image.fromarray(flat).resize((22, 22), Image.BILINEAR).resize((32, 32), Image.BILINEAR)
    assert np.array_equal(
        degraded(pictures, "downsampling", 2, _rng())[0], np.asarray(small).reshape(pictures[0].shape)
    )


def test_blur_keeps_the_mean_and_lowers_the_contrast(pictures):
    blurred = degraded(pictures, "blur", 4, _rng()).astype(float)
    assert blurred.mean() == pytest.approx(pictures.mean(), abs=1.5)
    steps = [np.abs(np.diff(each.astype(float), axis=2)).mean() for each in (blurred, pictures)]
    assert steps[0] < 0.5 * steps[1]


def test_pictures_of_other_channels_and_severities_are_refused():
    with pytest.raises(ConfigError, match="have 2 channels"):
        degraded(np.zeros((1, 8, 8, 2), np.uint8), "noise", 1, _rng())
    with pytest.raises(ConfigError, match="severity is -1"):
        degraded(np.zeros((1, 8, 8, 1), np.uint8), "noise", -1, _rng())


def test_curves_start_at_the_clean_value(models, split):
    figures = degradation(models, split)
    for prefix, role in (("", "student"), ("independent.", "independent"), ("teacher.", "teacher")):
        clean = evaluate(models[role], split).score
        assert {figures[f"{prefix}{kind}@0"] for kind in KINDS} == {clean}
    assert len(figures) == 3 * 5 * 6


def test_curves_fall_for_a_network_that_was_right(models, dataset):
    figures = degradation(models, dataset.test, kinds=("noise",))
    assert figures["teacher.noise@0"] > 0.9
    assert figures["teacher.noise@5"] < figures["teacher.noise@0"] - 0.1
