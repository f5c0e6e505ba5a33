"""What fine-tuning in fake int8 goes on with, and where it is refused."""

from types import SimpleNamespace

import pytest

from edgekd.core.errors import ConfigError
from edgekd.distill import TrainSettings, load_recipe
from edgekd.pipeline.config import PrecisionConfig
from edgekd.pipeline.qat import going_on, qat_settings, require_trainable


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("kd", "kd"),
        ("multi-granularity", "multi-granularity"),
        ("mas+sp", "mas+sp"),
        ("sftn-full", "kd"),
        ("takd", "kd"),
        ("rl-kd", "kd"),
        ("tl-kd", "kd"),
    ],
)
def test_the_recipe_goes_on_unless_it_would_start_something_anew(method, expected):
    assert going_on(load_recipe(method)).name == expected


def test_settings_are_the_runs_but_for_what_fake_int8_needs():
    run = TrainSettings(epochs=240, batch_size=32, lr=0.1, augment="shift", compile="default", precision="bf16")
    found = qat_settings(run, PrecisionConfig(qat=True, qat_epochs=7, qat_lr=1e-3))
    assert (found.epochs, found.lr, found.optimizer, found.weight_decay) == (7, 1e-3, "adamw", 0.0)
    assert (found.batch_size, found.augment, found.compile, found.precision) == (32, "shift", "no", "no")


def test_texts_are_refused_before_anything_is_trained():
    def context(qat, vocabulary):
        config = SimpleNamespace(precision=PrecisionConfig(qat=qat))
        return SimpleNamespace(config=config, dataset=SimpleNamespace(vocabulary=vocabulary))

    require_trainable(context(True, 0))
    require_trainable(context(False, 30_000))
    with pytest.raises(ConfigError, match="networks of pictures"):
        require_trainable(context(True, 30_000))
