"""What fine-tuning in fake int8 goes on with, and where it is refused."""

from types import SimpleNamespace

import pytest

from edgekd.core.errors import ConfigError
from edgekd.distill import TrainSettings, load_recipe
from edgekd.pipeline.config import PrecisionConfig
from edgekd.pipeline.qat import going_on, qat_settings, require_trainable


@pytest.mark.parametrize(
    ("method", "asked", "expected"),
    [
        ("takd", "kd", "kd"),
        ("multi-granularity", "run", "multi-granularity"),
        ("mas+sp", "run", "mas+sp"),
        ("kd", "plain", "plain"),
    ],
)
def test_fine_tuning_takes_the_recipe_asked_for(method, asked, expected):
    assert going_on(load_recipe(method), asked).name == expected


@pytest.mark.parametrize("method", ["sftn-full", "takd", "rl-kd", "tl-kd"])
def test_a_recipe_that_starts_something_anew_cannot_go_on(method):
    with pytest.raises(ConfigError, match=f"{method}' starts networks anew or trains others beside the student"):
        going_on(load_recipe(method), "run")


def test_settings_are_the_runs_but_for_what_fake_int8_needs():
    run = TrainSettings(
        epochs=240, batch_size=32, lr=0.1, augment="shift", compile="default", precision="bf16", student_lr=0.1
    )
    found = qat_settings(run, PrecisionConfig(qat=True, qat_epochs=7, qat_lr=1e-3))
    assert (found.epochs, found.lr, found.optimizer, found.weight_decay) == (7, 1e-3, "adamw", 0.0)
    assert (found.batch_size, found.augment, found.compile, found.precision) == (32, "shift", "no", "no")
    assert found.student_lr is None


def test_texts_are_refused_before_anything_is_trained():
    def context(qat, vocabulary):
        config = SimpleNamespace(precision=PrecisionConfig(qat=qat))
        return SimpleNamespace(config=config, recipe=load_recipe("kd"), dataset=SimpleNamespace(vocabulary=vocabulary))

    require_trainable(context(True, 0))
    require_trainable(context(False, 30_000))
    with pytest.raises(ConfigError, match="networks of pictures"):
        require_trainable(context(True, 30_000))
