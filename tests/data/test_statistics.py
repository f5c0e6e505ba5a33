import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import DataError
from edgekd.data.images import ArrayImages
from edgekd.data.statistics import channel_statistics


@given(st.integers(1, 30), st.integers(1, 3), st.integers(0, 100))
def test_channel_statistics_agree_with_numpy_in_float64(count: int, channels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 5, 7, channels), np.uint8)
    statistics = channel_statistics(ArrayImages(pixels))
    scaled = pixels.astype(np.float64) / 255
    np.testing.assert_allclose(statistics.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, scaled.std(axis=(0, 1, 2)), rtol=1e-9)
    assert statistics.pictures == count


def test_channel_statistics_spans_several_chunks() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 1024, 1024, 1), np.uint8)
    statistics = channel_statistics(ArrayImages(pixels))
    assert statistics.mean[0] == pytest.approx(pixels.mean() / 255, rel=1e-12)
    assert statistics.std[0] == pytest.approx((pixels / 255.0).std(), rel=1e-9)


def test_channel_statistics_reads_evenly_spaced_pictures_when_there_are_too_many_values() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 1), np.uint8)
    statistics = channel_statistics(ArrayImages(pixels), max_values=16 * 10)
    assert statistics.pictures == 10
    assert statistics.mean[0] == pytest.approx(pixels[::10].mean() / 255, rel=1e-12)


def test_channel_statistics_refuses_a_constant_channel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), np.uint8)
    pixels[..., 1] = 51
    with pytest.raises(DataError, match=r"channel 1 is 0\.2 in every pixel"):
        channel_statistics(ArrayImages(pixels))
