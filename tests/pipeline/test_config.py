import json
from importlib import resources
from pathlib import Path

import jsonschema
import pytest
import yaml

from edgekd.core.errors import ConfigError
from edgekd.pipeline.config import RunConfig, load_config, merged, preset


def test_the_digits_preset_applies_where_nothing_is_said():
    config = load_config(None, flags={}, overrides=[])
    assert config.data.name == "digits"
    assert config.student.widths == (1, 2)
    assert config.method == "multi-granularity"


def test_a_preset_follows_the_data_set(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("data: {name: cifar10}\n")
    config = load_config(path, flags={}, overrides=[])
    assert (config.train.epochs, config.train.schedule) == (240, "multistep")
    assert config.teacher.net == "resnet56-w16"


def test_flags_win_over_the_file_and_assignments_over_flags(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("seeds: 5\nmethod: kd\ntrain: {lr: 0.2, epochs: 7}\n")
    config = load_config(path, flags={"seeds": 4, "train": {"epochs": 6}}, overrides=["seeds=2"])
    assert (config.seeds, config.method, config.train.lr, config.train.epochs) == (2, "kd", 0.2, 6)


def test_every_problem_is_reported_at_once(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("taget: cpu\nseeds: 0\ntrain: {lr: -1, epoch: 3}\nmax_drop: 2\n")
    with pytest.raises(ConfigError) as error:
        load_config(path, flags={}, overrides=[])
    message = str(error.value)
    for fragment in (
        "run.yaml: 5 problem(s)",
        "taget: unknown key",
        "seeds",
        "train.lr",
        "train.epoch: unknown",
        "max_drop",
    ):
        assert fragment in message


def test_merged_lets_later_keys_win_and_merges_mappings():
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}}, {"d": {"e": 5}}) == {
        "a": {"b": 1, "c": 4},
        "d": {"e": 5},
    }


def test_every_preset_is_valid():
    folder = Path(str(resources.files("edgekd.pipeline") / "presets"))
    for file in folder.glob("*.yaml"):
        RunConfig.model_validate(preset(file.stem))


def test_the_published_schema_is_that_of_the_model_and_accepts_the_presets():
    published = json.loads((Path(str(resources.files("edgekd.pipeline"))) / "config.schema.json").read_text())
    assert published == RunConfig.model_json_schema()
    document = yaml.safe_load(yaml.safe_dump(RunConfig.model_validate(preset("digits")).model_dump(mode="json")))
    jsonschema.validate(document, published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "taget": "cpu"}, published)
