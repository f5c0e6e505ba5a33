import os
import subprocess
import sys
import textwrap
import types

import pytest
import torch
from torch import nn

from edgekd.core.errors import ConfigError, PreconditionError
from edgekd.models import load_teacher

FACTS = {"in_channels": 1, "num_classes": 4, "resolution": 16, "mean": (0.4,), "std": (0.2,), "weights": None}


def fake_timm(calls):
    """The three functions of timm that edgekd calls, with timm's signatures."""

    def create_model(model_name, pretrained=False, *, in_chans=3, num_classes=1000):
        calls.append((model_name, pretrained))
        if model_name == "rigid":
            raise RuntimeError("in_chans must be 3")
        if model_name == "strange":
            return "not a network"
        return nn.Sequential(
            nn.Conv2d(in_chans, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)
        )

    module = types.ModuleType("timm")
    module.create_model = create_model
    module.list_models = lambda: ["resnet18", "resnet34", "rigid", "strange"]
    module.is_model = lambda name: name in module.list_models()
    return module


@pytest.fixture
def timm_calls(monkeypatch):
    calls = []
    monkeypatch.setitem(sys.modules, "timm", fake_timm(calls))
    return calls


def test_timm_teacher_is_made_for_the_data_set_without_download(timm_calls):
    spec, teacher = load_teacher("timm:resnet18", **FACTS)
    assert timm_calls == [("resnet18", False)]
    assert (spec.family, spec.name, dict(spec.options)) == ("timm", "timm:resnet18", {"model": "resnet18"})
    assert teacher(torch.rand(3, 1, 16, 16)).shape == (3, 4)
    assert not teacher.training


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet19", "unknown timm model 'resnet19'; did you mean"),
        ("rigid", "timm cannot make 'rigid': RuntimeError: in_chans must be 3"),
        ("strange", "timm made str of 'strange'"),
    ],
)
def test_timm_teacher_that_cannot_be_made_is_explained(timm_calls, name, words):
    with pytest.raises(ConfigError, match=words):
        load_teacher(f"timm:{name}", **FACTS)


@pytest.mark.parametrize("absent", ["timm", "torchvision"])
def test_missing_package_is_named_with_its_extra(monkeypatch, tmp_path, absent):
    if absent == "timm":
        monkeypatch.setitem(sys.modules, "timm", None)
    else:
        monkeypatch.delitem(sys.modules, "timm", raising=False)
        monkeypatch.setitem(sys.modules, "torchvision", None)
        (tmp_path / "timm.py").write_text("import torchvision\n")
        monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PreconditionError, match=rf"{absent}.*pip install 'edgekd\[timm\]'"):
        load_teacher("timm:resnet18", **FACTS)


BROKEN_TORCHVISION = """
    import torch
    import torchvision.early

    @torch.library.register_fake("torchvision::nms")
    def nms(dets, scores, iou_threshold):
        return dets.new_empty((0,), dtype=torch.long)
"""
WORKING_TORCHVISION = "IS_READY = True\n"
TIMM = """
    import torchvision
    from torch import nn
    def is_model(name): return True
    def create_model(name, pretrained, in_chans, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(in_chans * 256, num_classes))
"""
PROGRAM = """
    import torch
    from edgekd.models import load_teacher
    facts = dict(in_channels=1, num_classes=4, resolution=16, mean=(0.4,), std=(0.2,), weights=None)
    _, teacher = load_teacher("timm:any", **facts)
    print(tuple(teacher(torch.rand(2, 1, 16, 16)).shape))
    try:
        print("declared", torch.ops.torchvision.nms.default.name())
    except AttributeError:
        print("not declared")
"""


def run_with(folder, *, torchvision):
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(textwrap.dedent(torchvision))
    (folder / "torchvision" / "early.py").write_text("")
    (folder / "timm.py").write_text(textwrap.dedent(TIMM))
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), root])}
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_torchvision_whose_operators_do_not_load_is_repaired(tmp_path):
    done = run_with(tmp_path, torchvision=BROKEN_TORCHVISION)
    assert done.stdout.splitlines() == ["(2, 4)", "declared torchvision::nms"], done.stderr


def test_working_torchvision_is_left_alone(tmp_path):
    done = run_with(tmp_path, torchvision=WORKING_TORCHVISION)
    assert done.stdout.splitlines() == ["(2, 4)", "not declared"], done.stderr


def test_other_failures_of_torchvision_are_not_hidden_nor_tried_again(tmp_path):
    log = tmp_path / "imports.log"
    broken = f"open({str(log)!r}, 'a').write('x')\nraise RuntimeError('compiled with another CUDA')\n"
    done = run_with(tmp_path, torchvision=broken)
    assert done.returncode != 0
    assert "compiled with another CUDA" in done.stderr
    assert log.read_text() == "x"
