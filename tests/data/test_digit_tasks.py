"""Data sets made of real digits: what they show is what their labels say."""

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits as bundled_digits

from edgekd.core.errors import ConfigError
from edgekd.data import DataConfig, Dataset, load_dataset
from edgekd.data.digits import three_digit_parts
from edgekd.data.digits_pose import CANVAS, MAX_DEGREES, POSES, posed
from edgekd.data.digits_scenes import LEAST_INK, Digits, scene

NAMES = ("digits-halves", "digits-pose", "digits-scenes")


def _pixels(dataset: Dataset, name: str) -> np.ndarray:
    split = getattr(dataset, name)
    return split.inputs.gather(np.arange(len(split)))


@pytest.mark.parametrize("name", NAMES)
def test_sets_are_reproducible_and_their_test_part_is_the_same_for_every_seed(name):
    one, again, other = (load_dataset(DataConfig(name=name, seed=seed)) for seed in (0, 0, 1))
    assert one.digest == again.digest != other.digest
    np.testing.assert_array_equal(_pixels(one, "test"), _pixels(other, "test"))
    np.testing.assert_array_equal(one.test.labels, other.test.labels)
    assert not np.array_equal(_pixels(one, "val"), _pixels(other, "val"))


@pytest.mark.parametrize("name", NAMES)
def test_sets_need_no_path(name):
    with pytest.raises(ConfigError, match=f"data set '{name}' comes from scikit-learn's digits"):
        load_dataset(DataConfig(name=name, path="/somewhere"))


def test_halves_put_together_are_the_digits():
    whole, halves = (load_dataset(DataConfig(name=name)) for name in ("digits", "digits-halves"))
    left, right = np.split(_pixels(halves, "test")[:, :, ::2], 2, axis=3)
    np.testing.assert_array_equal(np.concatenate([left, right], axis=2), _pixels(whole, "test"))
    np.testing.assert_array_equal(halves.test.labels, whole.test.labels)
    assert halves.input_shape == (2, 8, 8)


@pytest.mark.parametrize("seed", [0, 3])
def test_no_digit_is_in_two_parts(seed):
    parts = three_digit_parts(DataConfig(name="digits-pose", seed=seed))
    digits = {name: part.inputs.gather(np.arange(len(part.labels))) for name, part in parts.items()}
    assert sum(map(len, digits.values())) == len(bundled_digits().target)
    found = [{digit.tobytes() for digit in part} for part in digits.values()]
    assert sum(map(len, found)) == len(set.union(*found))


@pytest.mark.parametrize("angle", [-1.0, -0.4, 0.0, 0.7])
def test_a_pose_of_the_same_size_is_a_turn_about_the_middle(angle):
    digit = np.rint(bundled_digits().images[4] * 255 / 16).astype(np.uint8)
    padded = Image.fromarray(np.pad(digit, (CANVAS - 8) // 2))
    expected = np.asarray(padded.rotate(angle * MAX_DEGREES, resample=Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(posed(digit, angle=angle, scale=-1.0).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("scale", "factor"), [(-1.0, 1.0), (0.0, 1.5), (1.0, 2.0)])
def test_a_pose_enlarges_ink_about_the_middle(scale, factor):
    def spread(pixels):
        weights = pixels.astype(float) / pixels.sum()
        places = np.arange(len(pixels)) + 0.5 - len(pixels) / 2
        return np.sqrt((weights * places[:, None] ** 2).sum())

    digit = np.zeros((8, 8), np.uint8)
    digit[2:6, 3:5] = 255
    assert spread(posed(digit, angle=0.0, scale=scale)) / spread(digit) == pytest.approx(factor, rel=0.12)


def test_poses_are_labels_of_unit_size_in_the_order_of_the_pictures():
    dataset = load_dataset(DataConfig(name="digits-pose"))
    source = three_digit_parts(DataConfig(name="digits-pose"))["val"]
    digits = source.inputs.gather(np.arange(len(source.labels)))[..., 0].repeat(POSES["val"], axis=0)
    assert np.abs(dataset.train.labels).max() <= 1
    assert np.abs(dataset.train.labels.mean(0)).max() < 0.05
    for row in (0, 1, 77):
        angle, scale = dataset.val.labels[row]
        np.testing.assert_array_equal(
            _pixels(dataset, "val")[row, ..., 0], posed(digits[row], angle=angle, scale=scale)
        )


def test_a_scene_gives_every_pixel_with_ink_the_class_of_its_digit():
    """Solid squares for digits: what is bright is a digit, what is not is ground."""
    solid = Digits(np.full((1, 8, 8), 255, np.uint8), np.array([6]))
    for seed in range(20):
        pixels, classes = scene(solid, np.random.default_rng(seed))
        np.testing.assert_array_equal(classes, np.where(pixels >= LEAST_INK, 7, 0))
        assert 9 * 9 <= (classes > 0).sum() <= 4 * 14 * 14
        assert (np.unique(pixels[classes == 0]).size) > 5


def test_digits_of_a_scene_do_not_lie_over_each_other():
    two = Digits(np.full((2, 8, 8), 255, np.uint8), np.array([0, 1]))
    for seed in range(20):
        _, classes = scene(two, np.random.default_rng(seed))
        for label in (1, 2):
            rows, columns = np.nonzero(classes == label)
            corners = {(row, column) for row, column in zip(rows, columns, strict=True)}
            while corners:
                top, left = min(corners)
                side = next(n for n in range(1, 25) if (top, left + n) not in corners)
                square = {(top + y, left + x) for y in range(side) for x in range(side)}
                assert square <= corners
                assert side >= 9
                corners -= square


def test_scenes_hold_all_classes_and_much_ground():
    dataset = load_dataset(DataConfig(name="digits-scenes"))
    assert dataset.task.targets == ("ground", *"0123456789")
    for split in (dataset.train, dataset.val, dataset.test):
        assert set(np.unique(split.labels)) == set(range(11))
        assert 0.5 < (split.labels == 0).mean() < 0.95
