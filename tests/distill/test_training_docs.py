"""docs/training.md names every setting, and no recipe as refused that is not."""

from pathlib import Path

from edgekd.distill import TrainSettings, load_recipe, recipe_names
from edgekd.distill.claims import single_process_reasons

TEXT = (Path(__file__).parents[2] / "docs" / "training.md").read_text()


def test_every_setting_is_described():
    assert [name for name in TrainSettings.model_fields if f"`{name}" not in TEXT and name != "milestones"] == []
    assert all(field.description for name, field in TrainSettings.model_fields.items() if name not in UNDESCRIBED)


# As they were: their names say what they are.
UNDESCRIBED = {"optimizer", "nesterov", "weight_decay", "schedule", "max_grad_norm", "device"}


def test_the_recipes_that_one_process_trains_are_those_named():
    refused = [name for name in recipe_names() if single_process_reasons(load_recipe(name))]
    assert refused == ["knowledge-selection", "mixup-kd", "rl-kd", "xcl"]
    assert all(f"`{name}`" in TEXT for name in refused)
