import dataclasses
import sys
import textwrap

import pytest
import torch

from edgekd.core.artifacts import NetSpec, TrainedModel
from edgekd.core.errors import ConfigError, StorageError
from edgekd.models import build, load_model, load_teacher, save_weights, spec_for
from edgekd.models.pythonfile import net_from_file

FACTS = {"in_channels": 3, "num_classes": 4, "resolution": 16, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}

TEACHER_FILE = """
    from __future__ import annotations
    from dataclasses import dataclass
    import torch
    from neighbour_of_teacher import make_head

    @dataclass
    class Sizes:
        hidden: int = 5

    def make_teacher(in_channels, num_classes, hidden=Sizes().hidden):
        return torch.nn.Sequential(torch.nn.Conv2d(in_channels, hidden, 3), *make_head(hidden, num_classes))

    def hundred_classes():
        return make_teacher(3, 100)

    def not_a_network():
        return "net"

    def fails():
        raise KeyError("weights")

    def two_outputs(num_classes):
        class Two(torch.nn.Module):
            def forward(self, x):
                return x, x
        return Two()

    def wants_grey(num_classes):
        return make_teacher(1, num_classes)

    not_callable = 3
"""


@pytest.fixture
def teacher_file(tmp_path):
    (tmp_path / "neighbour_of_teacher.py").write_text(
        "from torch import nn\n"
        "def make_head(width, classes):\n"
        "    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)\n"
    )
    path = tmp_path / "teacher.py"
    path.write_text(textwrap.dedent(TEACHER_FILE))
    known = set(sys.modules)
    yield path
    for name in set(sys.modules) - known:
        if name.startswith(("neighbour_of_teacher", "edgekd_user_")):
            del sys.modules[name]


def test_zoo_teacher_loads_its_weights(tmp_path):
    torch.manual_seed(3)
    spec = spec_for("wrn", depth=10, width=8, **FACTS)
    source = build(spec).eval()
    save_weights(source, tmp_path / "w.safetensors", {})
    found, teacher = load_teacher("wrn10-w8", **FACTS, weights=tmp_path / "w.safetensors")
    inputs = torch.rand(2, 3, 16, 16)
    assert found == spec
    assert not teacher.training
    with torch.no_grad():
        assert torch.equal(teacher(inputs), source(inputs))


def test_zoo_teacher_without_weights_is_fresh():
    spec, teacher = load_teacher("resnet:depth=8,width=4,shortcut=B", **FACTS, weights=None)
    assert spec.options == {"shortcut": "B", "stem": "full"}
    assert (spec.depth, spec.width) == (8, 4)
    assert teacher(torch.rand(1, 3, 16, 16)).shape == (1, 4)


def test_zoo_teacher_with_weights_of_other_classes_is_refused(tmp_path):
    spec = spec_for("resnet", depth=8, width=4, **{**FACTS, "num_classes": 100})
    save_weights(build(spec), tmp_path / "w.safetensors", {})
    with pytest.raises(ConfigError, match=r"linear\.weight \(file \[100, 16\], network \[4, 16\]\)"):
        load_teacher("resnet8-w4", **FACTS, weights=tmp_path / "w.safetensors")


def test_python_teacher_gets_the_facts_it_names_and_is_normalised(teacher_file):
    spec, teacher = load_teacher(f"{teacher_file}:make_teacher", **FACTS, weights=None)
    assert spec.family == "python"
    assert spec.name == "python:teacher.py:make_teacher"
    assert not teacher.training
    inputs = torch.rand(2, 3, 16, 16)
    by_hand = torch.stack([(inputs[:, c] - FACTS["mean"][c]) / FACTS["std"][c] for c in range(3)], dim=1)
    with torch.no_grad():
        assert torch.allclose(teacher(inputs), teacher.get_submodule("net")(by_hand), atol=1e-6)
    assert str(teacher_file.parent) not in sys.path


def test_python_teacher_digest_depends_on_content_and_not_on_place(teacher_file, tmp_path):
    spec, _ = load_teacher(f"{teacher_file}:make_teacher", **FACTS, weights=None)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "teacher.py").write_bytes(teacher_file.read_bytes())
    same, _ = load_teacher(f"{moved / 'teacher.py'}:make_teacher", **FACTS, weights=None)
    (moved / "teacher.py").write_text(teacher_file.read_text() + "\n")
    other, _ = load_teacher(f"{moved / 'teacher.py'}:make_teacher", **FACTS, weights=None)
    assert spec.digest == same.digest != other.digest


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("make_teachr", r"unknown function in .*teacher\.py 'make_teachr'; did you mean make_teacher"),
        ("not_callable", "unknown function"),
        ("not_a_network", "returned str, expected a torch.nn.Module"),
        ("fails", "failed: KeyError: 'weights'"),
        ("hundred_classes", r"returned \[2, 100\] for a batch of 2; this data set needs 4 outputs"),
        ("two_outputs", "returned tuple, expected logits as one tensor"),
        ("wants_grey", r"cannot take inputs \[3, 16, 16\]: RuntimeError"),
    ],
)
def test_python_teacher_that_does_not_fit_is_refused(teacher_file, function, words):
    with pytest.raises(ConfigError, match=words):
        load_teacher(f"{teacher_file}:{function}", **FACTS, weights=None)
    assert str(teacher_file.parent) not in sys.path


def test_python_file_that_cannot_be_imported_is_refused(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("import a_module_that_nobody_wrote\n")
    before = set(sys.modules)
    with pytest.raises(ConfigError, match="cannot be imported: ModuleNotFoundError.*a_module_that_nobody_wrote"):
        load_teacher(f"{path}:make", **FACTS, weights=None)
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("absent.py:make", "teacher file absent.py: no such file"),
        ("absent.py", r"name the function that makes it, as in absent\.py:make_teacher"),
        ("resent20", "did you mean resnet"),
        ("resnet21", r"depth 21 is not 6n\+2"),
        ("", "unknown network family"),
    ],
)
def test_wrong_references_are_explained(ref, words):
    with pytest.raises(ConfigError, match=words):
        load_teacher(ref, **FACTS, weights=None)


def trained(spec, module, path):
    return TrainedModel("teacher", spec, save_weights(module, path, {}), {"test": 0.5}, "plain", 0)


def test_load_model_builds_a_zoo_network_again(tmp_path):
    spec = spec_for("repvgg", depth=4, width=4, **FACTS)
    module = build(spec).eval()
    loaded = load_model(trained(spec, module, tmp_path / "w.safetensors"))
    inputs = torch.rand(2, 3, 16, 16)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(inputs), module(inputs))


def test_load_model_builds_a_python_teacher_again_until_its_file_changes(teacher_file, tmp_path):
    spec, module = load_teacher(f"{teacher_file}:make_teacher", **FACTS, weights=None)
    model = trained(spec, module, tmp_path / "w.safetensors")
    inputs = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_model(model)(inputs), module(inputs))
    teacher_file.write_text(teacher_file.read_text() + "\n")
    with pytest.raises(StorageError, match="altered since"):
        load_model(model)


def test_load_model_refuses_altered_weights(tmp_path):
    spec = spec_for("resnet", depth=8, width=4, **FACTS)
    model = trained(spec, build(spec), tmp_path / "w.safetensors")
    save_weights(build(spec), tmp_path / "w.safetensors", {})
    with pytest.raises(StorageError, match="missing or were altered"):
        load_model(model)


def test_load_model_refuses_an_unknown_family(tmp_path):
    spec = spec_for("resnet", depth=8, width=4, **FACTS)
    model = trained(spec, build(spec), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="unknown network family"):
        load_model(dataclasses.replace(model, spec=dataclasses.replace(spec, family="resnest")))


def test_spec_survives_json_like_round_trip(teacher_file):
    spec, _ = load_teacher(f"{teacher_file}:make_teacher", **FACTS, weights=None)
    again = NetSpec(**dataclasses.asdict(spec))
    assert again.digest == spec.digest


def test_python_file_that_vanished_or_has_another_ending_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        net_from_file(tmp_path / "gone.py", "make", {})
    (tmp_path / "teacher.txt").write_text("def make(): ...\n")
    with pytest.raises(ConfigError, match=r"expected a Python file ending in \.py"):
        net_from_file(tmp_path / "teacher.txt", "make", {})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"std": (0.2, 0.0, 0.4)}, "every value must be above 0"),
        ({"std": (0.2, -0.3, 0.4)}, "every value must be above 0"),
        ({"mean": (0.4,)}, "mean has 1 values for 3 input channels"),
    ],
)
def test_a_teacher_of_ones_own_with_an_impossible_normalisation_is_refused(teacher_file, changed, words):
    with pytest.raises(ConfigError, match=words):
        load_teacher(f"{teacher_file}:make_teacher", **{**FACTS, **changed}, weights=None)
