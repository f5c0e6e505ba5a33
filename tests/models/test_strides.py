import pytest

from edgekd.models.strides import entry_halvings, stage_strides


@pytest.mark.parametrize(
    ("resolution", "halvings"), [(8, 0), (32, 0), (56, 0), (57, 1), (64, 1), (112, 1), (113, 2), (224, 2), (448, 2)]
)
def test_entry_halvings_bring_the_input_to_56_pixels(resolution, halvings):
    assert entry_halvings(resolution) == halvings


def test_stage_strides_are_as_wanted_when_the_input_is_large_enough():
    for resolution in (16, 28, 32, 56, 64, 112, 113, 224):
        assert stage_strides(resolution, (2, 1, 2, 2)) == (2, 1, 2, 2), resolution


def test_stage_strides_drop_the_deepest_when_the_input_is_small():
    assert stage_strides(8, (2, 2, 2)) == (2, 2, 1)
    assert stage_strides(15, (1, 2, 2, 2)) == (1, 2, 2, 1)


@pytest.mark.parametrize("resolution", range(8, 257))
def test_last_map_keeps_two_pixels_however_halves_are_rounded(resolution):
    up = down = resolution
    for stride in (2,) * entry_halvings(resolution) + stage_strides(resolution, (2, 2, 2, 2, 2)):
        up, down = -(-up // stride), down // stride
    assert down >= 2
    assert up <= 4 or resolution > 112
