import yaml

from edgekd.distill import load_recipe


def test_a_copied_recipe_is_the_same_method(edgekd, tmp_path):
    done = edgekd("recipes", "cp", "mas+sp", tmp_path / "mine.yaml")
    assert done.exit_code == 0, done.stderr
    assert load_recipe(str(tmp_path / "mine.yaml")) == load_recipe("mas+sp")


def test_a_copy_overwrites_nothing_unasked(edgekd, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("mine")
    assert edgekd("recipes", "cp", "kd", path).exit_code == 2
    assert path.read_text() == "mine"
    assert edgekd("recipes", "cp", "kd", path, "--force").exit_code == 0
    assert yaml.safe_load(path.read_text())["name"] == "kd"
    assert edgekd("recipes", "cp", "kd", tmp_path / "mine.txt").exit_code == 2
