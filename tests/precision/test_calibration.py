import dataclasses

import numpy as np
import pytest

from edgekd.core.artifacts import FileRef, OnnxModel
from edgekd.core.errors import DataError
from edgekd.data import DataConfig, calibration_rows, load_dataset, network_inputs
from edgekd.precision import check_balance, check_calibration, drawn_calibration

SHAPE = (3, 8, 8)
NOWHERE = FileRef("net.onnx", "", 0)
MODEL = OnnxModel(NOWHERE, "fp32", "any", 17, "input", SHAPE, "logits", 0)
TEXTS = OnnxModel(NOWHERE, "fp32", "any", 17, "input", (5,), "logits", 0, vocabulary=9)


def images(n=32, low=0.0, high=1.0):
    """Pictures whose neighbouring pixels are alike, values over the whole range."""
    coarse = np.random.default_rng(0).uniform(low, high, (n, 3, 4, 4)).astype(np.float32)
    return coarse.repeat(2, axis=2).repeat(2, axis=3)


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


def test_calibration_refuses_random_noise_of_any_brightness():
    for deviation in (0.05, 0.2, 1.0):
        noise = np.random.default_rng(1).random((64, *SHAPE), dtype=np.float32) * np.float32(deviation)
        with pytest.raises(DataError, match="neighbouring pixels are unrelated .* random noise"):
            check_calibration(noise, MODEL)


def test_calibration_takes_pictures_with_noise_on_them():
    noise = np.random.default_rng(1).random((32, *SHAPE), dtype=np.float32)
    check_calibration((images() + noise) / 2, MODEL)


def test_calibration_does_not_look_for_neighbours_in_single_pixels():
    model = dataclasses.replace(MODEL, input_shape=(3, 1, 1))
    check_calibration(np.random.default_rng(1).random((32, 3, 1, 1), dtype=np.float32), model)


ALL = np.repeat(np.arange(4), [100, 100, 100, 3])


def test_balance_accepts_even_classes_and_rare_ones_that_are_used_up():
    check_balance(np.repeat(np.arange(4), 10), ALL)
    check_balance(np.repeat(np.arange(4), [60, 60, 60, 3]), ALL)
    check_balance(np.arange(300), np.arange(1000))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([10, 10, 10, 0], r"1 of 4 classes are missing from its 30 inputs \(3\)"),
        ([90, 5, 90, 3], "class 0 is there 90 times, class 1 only 5 times"),
        ([0, 0, 3, 0], "3 of 4 classes are missing from its 3 inputs"),
    ],
)
def test_balance_refuses_missing_and_rare_classes(counts, message):
    with pytest.raises(DataError, match=message):
        check_balance(np.repeat(np.arange(4), counts), ALL)


def test_drawn_calibration_holds_every_class_of_the_training_split():
    dataset = load_dataset(DataConfig(name="digits"))
    inputs = drawn_calibration(dataset, size=50, seed=0)
    assert inputs.shape == (50, 1, 8, 8)
    rows = calibration_rows(dataset, size=50, seed=0)
    assert (np.bincount(dataset.train.labels[rows]) == 5).all()
    np.testing.assert_array_equal(inputs, network_inputs(dataset.train.inputs.gather(rows)))
