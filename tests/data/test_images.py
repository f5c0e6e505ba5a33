import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.data.images import ArrayImages, ResizedImages, chunks, fitted
from edgekd.data.inputs import StoredRows


def _pixels(count: int = 6, height: int = 4, width: int = 5, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, channels), np.uint8)


def test_array_images_gather_returns_rows_in_the_order_asked() -> None:
    pixels = _pixels()
    images = ArrayImages(pixels)
    assert images.shape == (3, 4, 5)
    assert len(images) == 6
    rows = np.array([4, 0, 4])
    np.testing.assert_array_equal(images.gather(rows), np.stack([pixels[4], pixels[0], pixels[4]]))


def test_array_images_gather_is_a_copy() -> None:
    pixels = _pixels()
    ArrayImages(pixels).gather(np.arange(6))[:] = 0
    np.testing.assert_array_equal(pixels, _pixels())


@pytest.mark.parametrize("wrong", [np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 1), np.float32)])
def test_array_images_refuses_other_arrays(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"uint8 \[N, H, W, C\]"):
        ArrayImages(wrong)


def test_image_rows_maps_rows_twice() -> None:
    pixels = _pixels()
    view = StoredRows(StoredRows(ArrayImages(pixels), np.array([5, 3, 1])), np.array([2, 0]))
    assert len(view) == 2
    assert view.shape == (3, 4, 5)
    np.testing.assert_array_equal(view.gather(np.array([0, 1])), pixels[[1, 5]])


def test_image_rows_fingerprint_is_that_of_the_same_pictures() -> None:
    pixels = _pixels()
    view = StoredRows(ArrayImages(pixels), np.array([5, 3]))
    assert view.fingerprint(np.array([0, 1])) == ArrayImages(pixels[[5, 3]]).fingerprint(np.array([0, 1]))


def test_fingerprint_changes_with_one_pixel_with_order_and_with_shape() -> None:
    rows = np.arange(6)
    pixels = _pixels()
    altered = pixels.copy()
    altered[3, 2, 1, 0] ^= 1
    prints = {
        ArrayImages(pixels).fingerprint(rows),
        ArrayImages(altered).fingerprint(rows),
        ArrayImages(pixels).fingerprint(rows[::-1]),
        ArrayImages(pixels.reshape(6, 5, 4, 3)).fingerprint(rows),
        ResizedImages(ArrayImages(pixels), 4).fingerprint(rows),
        ResizedImages(ArrayImages(pixels), 5).fingerprint(rows),
    }
    assert len(prints) == 6


def test_fingerprint_is_independent_of_chunking() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (9, 700, 700, 3), np.uint8)
    assert len(list(chunks(np.arange(9), (3, 700, 700)))) > 1
    expected = ArrayImages(wide[:, ::1]).fingerprint(np.arange(9))
    assert StoredRows(ArrayImages(wide[::-1]), np.arange(9)[::-1]).fingerprint(np.arange(9)) == expected


@given(st.integers(0, 3000), st.integers(1, 2000))
def test_chunks_cover_every_row_once_in_order(count: int, side: int) -> None:
    runs = list(chunks(np.arange(count), (3, side, side)))
    assert all(len(run) for run in runs)
    assert [row for run in runs for row in run] == list(range(count))


def test_resized_images_halve_by_averaging_a_constant_block() -> None:
    blocks = np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3), np.uint8)
    enlarged = blocks.repeat(8, axis=1).repeat(8, axis=2)
    resized = ResizedImages(ArrayImages(enlarged), 4).gather(np.array([1, 0]))
    assert resized.shape == (2, 4, 4, 3)
    assert resized.dtype == np.uint8
    expected = np.stack([_triangle_downscaled(enlarged[row], 4) for row in (1, 0)])
    assert np.abs(resized.astype(float) - expected).max() <= 1.0


def _triangle_downscaled(picture: np.ndarray, side: int) -> np.ndarray:
    scale = picture.shape[0] / side
    centres = (np.arange(side) + 0.5) * scale
    places = np.arange(picture.shape[0]) + 0.5
    weights = np.maximum(0, 1 - np.abs(places[None] - centres[:, None]) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ij,jkc,lk->ilc", weights, picture.astype(float), weights)


def test_resized_images_keeps_one_channel() -> None:
    grey = ResizedImages(ArrayImages(_pixels(3, 8, 8, 1)), 16)
    assert grey.shape == (1, 16, 16)
    assert grey.gather(np.array([2])).shape == (1, 16, 16, 1)


@pytest.mark.parametrize(("size", "left", "top"), [((9, 5), 2, 0), ((5, 9), 0, 2), ((5, 5), 0, 0), ((8, 5), 1, 0)])
def test_fitted_only_crops_the_centre_when_the_shorter_side_fits(size: tuple[int, int], left: int, top: int) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (size[1], size[0], 3), np.uint8)
    np.testing.assert_array_equal(
        np.asarray(fitted(Image.fromarray(pixels), 5)), pixels[top : top + 5, left : left + 5]
    )


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 40))
def test_fitted_always_returns_the_asked_square(width: int, height: int, resolution: int) -> None:
    assert fitted(Image.new("RGB", (width, height)), resolution).size == (resolution, resolution)


def test_fitted_keeps_the_aspect_ratio() -> None:
    stripes = np.zeros((40, 80), np.uint8)
    stripes[:, 15:65] = 255
    assert np.asarray(fitted(Image.fromarray(stripes), 10)).min() > 250
