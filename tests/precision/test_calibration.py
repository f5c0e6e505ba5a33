import numpy as np
import pytest

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.core.errors import DataError
from edgekd.precision import check_calibration

SHAPE = (3, 8, 8)
NOWHERE = FileRef("net.onnx", "", 0)
MODEL = OnnxModel(NOWHERE, "fp32", "any", 17, "input", SHAPE, "logits", 0)
TEXTS = OnnxModel(NOWHERE, "fp32", "any", 17, "input", (5,), "logits", 0, vocabulary=9)


def images(n=32, low=0.0, high=1.0):
    return np.random.default_rng(0).uniform(low, high, (n, *SHAPE)).astype(np.float32)


def test_calibration_accepts_different_images_in_range():
    check_calibration(images(), MODEL)
    check_calibration(images(4), MODEL, minimum=4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (images(31), "there are 31 inputs; at least 32"),
        (images(0), "there are 0 inputs"),
        (images().astype(np.float64), r"the network takes float32 \[n, 3, 8, 8\], got float64 \[32, 3, 8, 8\]"),
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
        check_calibration(wrong, MODEL)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_calibration_refuses_values_that_are_not_finite(value):
    wrong = images()
    wrong[3, 0, 0, :2] = value
    with pytest.raises(DataError, match=r"2 of 6144 values are NaN or infinite"):
        check_calibration(wrong, MODEL)


def test_calibration_reports_all_problems_at_once():
    with pytest.raises(DataError, match="there are 2 inputs.*scaled twice"):
        check_calibration(images(2) / np.float32(255), MODEL)


def tokens(n=32):
    return np.random.default_rng(0).integers(0, 9, (n, 5))


def test_calibration_accepts_different_texts_of_the_vocabulary():
    check_calibration(tokens(), TEXTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (tokens(31), "there are 31 inputs"),
        (tokens().astype(np.int32), r"takes int64 \[n, 5\], got int32"),
        (tokens()[:, :4], r"got int64 \[32, 4\]"),
        (tokens() + 1, "tokens run from 1 to 9, the network knows 0..8"),
        (tokens() - 1, "tokens run from -1 to 7"),
        (np.repeat(tokens(1), 32, axis=0), "all texts are the same"),
    ],
)
def test_calibration_refuses_unusable_texts(wrong, message):
    with pytest.raises(DataError, match=message):
        check_calibration(wrong, TEXTS)
