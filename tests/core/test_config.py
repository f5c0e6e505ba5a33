import pytest

from edgekd.core.config import StrictModel, apply_overrides, read_yaml, validated
from edgekd.core.errors import ConfigError


class Inner(StrictModel):
    lr: float = 0.1


class Outer(StrictModel):
    name: str
    train: Inner = Inner()


def test_validated_reports_every_problem_with_its_key():
    with pytest.raises(ConfigError) as error:
        validated(Outer, {"nam": "x", "train": {"lr": "fast", "momentum": 1}}, "run.yaml")
    message = str(error.value)
    for fragment in (
        "run.yaml: 4 problem(s)",
        "name: missing",
        "nam: unknown key",
        "train.lr:",
        "'fast'",
        "train.momentum",
    ):
        assert fragment in message


def test_validated_refuses_infinite_numbers():
    with pytest.raises(ConfigError):
        validated(Inner, {"lr": float("inf")}, "x")


def test_configs_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Inner().lr = 1.0


def test_apply_overrides_sets_nested_keys_and_leaves_the_original():
    document = {"train": {"lr": 0.1}}
    assert apply_overrides(document, ["train.lr=0.5", "name=x", "a.b.c=[1, 2]"]) == {
        "train": {"lr": 0.5},
        "name": "x",
        "a": {"b": {"c": [1, 2]}},
    }
    assert document == {"train": {"lr": 0.1}}


@pytest.mark.parametrize(
    "text, fragment",
    [("lr", "key.sub=value"), ("=3", "key.sub=value"), ("a.b=1", "plain value"), ("c=[1", "not valid YAML")],
)
def test_apply_overrides_explains_what_is_wrong(text, fragment):
    with pytest.raises(ConfigError, match=fragment):
        apply_overrides({"a": 1}, [text])


def test_read_yaml_reads_a_mapping_and_an_empty_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a: {b: 1}\n")
    assert read_yaml(path) == {"a": {"b": 1}}
    path.write_text("")
    assert read_yaml(path) == {}


@pytest.mark.parametrize(
    "content, fragment", [(b"a: [1", "line 1"), (b"- 1\n", "found list"), (b"\xff\xfe\x00", "not valid YAML")]
)
def test_read_yaml_names_the_file_and_the_fault(tmp_path, content, fragment):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.yaml") as error:
        read_yaml(path)
    assert fragment in str(error.value)


def test_read_yaml_says_when_there_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="directory"):
        read_yaml(tmp_path)
