import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import ConfigError
from edgekd.data.augment import AUGMENTATIONS, RandomCrop, augmentation
from edgekd.data.metrics import IGNORED


def _brute_force_crop(picture: np.ndarray, dy: int, dx: int, is_flipped: bool) -> np.ndarray:
    height, width, _ = picture.shape
    moved = np.zeros_like(picture)
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                moved[y, x] = picture[y + dy, x + dx]
    return moved[:, ::-1] if is_flipped else moved


def _possible_crops(picture: np.ndarray, padding: int, can_flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    return {
        _brute_force_crop(picture, dy, dx, is_flipped).tobytes(): (dy, dx, is_flipped)
        for dy in range(-padding, padding + 1)
        for dx in range(-padding, padding + 1)
        for is_flipped in ([False, True] if can_flip else [False])
    }


@given(st.integers(0, 3), st.booleans(), st.integers(3, 7), st.integers(3, 7), st.integers(1, 3), st.integers(0, 50))
def test_random_crop_gives_one_of_the_brute_force_crops(
    padding: int, can_flip: bool, height: int, width: int, channels: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(1, 256, (5, height, width, channels), np.uint8)
    original = images.copy()
    changed, _ = RandomCrop(padding, can_flip)(images, np.zeros(5, np.int64), rng)
    np.testing.assert_array_equal(images, original)
    assert changed.shape == images.shape
    assert changed.dtype == np.uint8
    for before, after in zip(images, changed, strict=True):
        assert after.tobytes() in _possible_crops(before, padding, can_flip)


@pytest.mark.parametrize(("name", "padding", "can_flip"), [("shift", 1, False), ("crop-flip", 4, True)])
def test_augmentation_reaches_every_shift_and_flip_equally_often(name: str, padding: int, can_flip: bool) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(1, 256, (9, 9, 1), np.uint8)
    kinds = _possible_crops(picture, padding, can_flip)
    count = 200 * len(kinds)
    changed, _ = augmentation(name)(np.repeat(picture[None], count, axis=0), np.zeros(count, np.int64), rng)
    seen = [kinds[after.tobytes()] for after in changed]
    frequencies = np.array([seen.count(kind) for kind in kinds.values()])
    assert len(kinds) == (2 * padding + 1) ** 2 * (2 if can_flip else 1)
    assert ((frequencies - 200) ** 2 / 200).sum() < len(kinds) + 5 * np.sqrt(2 * len(kinds))


def test_random_crop_draws_each_picture_on_its_own() -> None:
    picture = np.random.default_rng(0).integers(1, 256, (1, 8, 8, 3), np.uint8)
    pictures, labels = np.repeat(picture, 50, axis=0), np.arange(50)
    changed, same = RandomCrop(4, can_flip=True)(pictures, labels, np.random.default_rng(1))
    assert same is labels
    assert len({after.tobytes() for after in changed}) > 20


def test_augmentation_none_changes_nothing_and_draws_nothing() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    rng = np.random.default_rng(5)
    labels = np.arange(3)
    assert augmentation("none")(images, labels, rng) == (images, labels)
    assert rng.random() == np.random.default_rng(5).random()


def test_augmentation_auto_tells_who_resolves_it() -> None:
    with pytest.raises(ConfigError, match="default_augmentation"):
        augmentation("auto")


def test_augmentation_names_near_ones_when_unknown() -> None:
    with pytest.raises(ConfigError, match="did you mean crop-flip"):
        augmentation("crop-flop")
    assert set(AUGMENTATIONS) >= {"none", "shift", "crop-flip"}


@pytest.mark.parametrize("name", ["shift", "crop-flip"])
def test_maps_move_with_their_pixels_and_are_ignored_where_padding_comes_in(name: str) -> None:
    rng = np.random.default_rng(2)
    pictures = rng.integers(1, 200, (40, 9, 9, 2), np.uint8)
    maps = pictures[..., 0].astype(np.int64)
    before = maps.copy()
    moved, moved_maps = augmentation(name)(pictures, maps, rng)
    np.testing.assert_array_equal(moved_maps, np.where(moved[..., 0] == 0, IGNORED, moved[..., 0]))
    np.testing.assert_array_equal(maps, before)
    assert moved_maps.dtype == np.int64
    assert (moved_maps == IGNORED).any()
    assert not np.array_equal(moved_maps, maps)


def test_values_stay_as_they_are_when_pixels_move() -> None:
    values = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    pictures = np.random.default_rng(0).integers(1, 256, (4, 8, 8, 1), np.uint8)
    _, same = augmentation("crop-flip")(pictures, values, np.random.default_rng(1))
    assert same is values
