"""Data sets by name or by file."""

import pytest

from edgekd.cli.data_choice import dataset_from_choice
from edgekd.core.errors import ConfigError


def test_name_is_loaded():
    assert len(dataset_from_choice("digits").task.targets) == 10


@pytest.mark.parametrize("text", ["name: digits\nlimit: 100\n", "data:\n  name: digits\n  limit: 100\nother: 1\n"])
def test_file_holds_the_keys_at_its_top_or_below_data(tmp_path, text):
    path = tmp_path / "data.yaml"
    path.write_text(text)
    dataset = dataset_from_choice(str(path))
    assert len(dataset.train.labels) + len(dataset.val.labels) == 100


@pytest.mark.parametrize(("choice", "says"), [("digit", "did you mean digits"), ("absent.yaml", "no such file")])
def test_wrong_choice_is_one_message(choice, says):
    with pytest.raises(ConfigError, match=says):
        dataset_from_choice(choice)


def test_unknown_key_is_named(tmp_path):
    (tmp_path / "d.yml").write_text("name: digits\nlimits: 3\n")
    with pytest.raises(ConfigError, match="limits: unknown key"):
        dataset_from_choice(str(tmp_path / "d.yml"))
