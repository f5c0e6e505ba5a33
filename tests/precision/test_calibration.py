import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.precision import check_calibration

SHAPE = (3, 8, 8)


def images(n=32, low=0.0, high=1.0):
    return np.random.default_rng(0).uniform(low, high, (n, *SHAPE)).astype(np.float32)


def test_calibration_accepts_different_images_in_range():
    check_calibration(images(), SHAPE)
    check_calibration(images(4), SHAPE, minimum=4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (images(31), "there are 31 images; at least 32"),
        (images(0), "there are 0 images"),
        (images().astype(np.float64), r"float64 \[32, 3, 8, 8\]; the network takes float32 \[n, 3, 8, 8\]"),
        ((images() * 255).astype(np.uint8), "uint8"),
        (images()[:, :1], r"\[32, 1, 8, 8\]"),
        (images()[0], r"\[3, 8, 8\]"),
        (images(low=-0.5), "run from -0.49"),
        (images(high=255.0), "run from .* to 25"),
        (images() / np.float32(255), "scaled twice"),
        (np.full((32, *SHAPE), 0.5, np.float32), "constant"),
        (np.repeat(images(1), 32, axis=0), "hardly differ"),
    ],
)
def test_calibration_refuses_unusable_images(wrong, message):
    with pytest.raises(DataError, match=message):
        check_calibration(wrong, SHAPE)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_refuses_values_that_are_not_finite(value):
    wrong = images()
    wrong[3, 0, 0, :2] = value
    with pytest.raises(DataError, match=r"2 of 6144 values are NaN or infinite"):
        check_calibration(wrong, SHAPE)


def test_calibration_reports_all_problems_at_once():
    with pytest.raises(DataError, match="there are 2 images.*scaled twice"):
        check_calibration(images(2) / np.float32(255), SHAPE)
