"""The kernels as a package of their own: metadata, a wheel, the README's example and the scripts beside it."""

import importlib.util
import re
import runpy
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import torch
from edgekd_kernels import functional as K

import edgekd

tomllib = pytest.importorskip("tomllib")
ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "kernels"
PROJECT = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
HOUSE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_version_requirements_and_licence_are_those_of_the_house():
    assert PROJECT["version"] == edgekd.__version__
    assert PROJECT["requires-python"] == HOUSE["requires-python"] and PROJECT["license"] == HOUSE["license"]
    assert set(PROJECT["dependencies"]) <= set(HOUSE["dependencies"])
    for extra, packages in PROJECT["optional-dependencies"].items():
        assert packages == HOUSE["optional-dependencies"][extra]
    assert (FOLDER / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_a_wheel_holds_the_package_and_works_without_edgekd(tmp_path):
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(FOLDER),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("edgekd_kernels-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    sources = {str(path.relative_to(FOLDER)) for path in (FOLDER / "edgekd_kernels").rglob("*") if path.is_file()}
    assert {name for name in sources if "__pycache__" not in name} <= set(names)
    assert all(name.startswith(("edgekd_kernels/", "edgekd_kernels-")) for name in names)
    assert "edgekd_kernels" in _works_in(tmp_path / "site")


def test_the_package_works_where_edgekd_is_not(tmp_path):
    (tmp_path / "edgekd_kernels").symlink_to(FOLDER / "edgekd_kernels")
    assert "edgekd_kernels" in _works_in(tmp_path)


def _works_in(folder):
    script = (
        "import sys, torch, edgekd_kernels.modules as m, edgekd_kernels.traffic;"
        "one, other = torch.randn(2, 4, 5);"
        "assert m.KdKl()(one.requires_grad_(), other).backward() is None;"
        "assert not any(name == 'edgekd' or name.startswith('edgekd.') for name in sys.modules);"
        "print(m.__file__)"
    )
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(folder))
    return done.stdout


def test_the_readmes_example_runs():
    code = re.search(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)[1]
    names = {}
    exec(code, names)
    assert names["student"].grad.abs().sum() > 0
    assert len([line for line in code.splitlines() if line]) <= 5


def test_links_lead_somewhere():
    for link in re.findall(r"\]\(([^)#:]+)\)", (FOLDER / "README.md").read_text()):
        assert (FOLDER / link).exists(), link


def test_the_plain_loop_teaches_the_student(capsys):
    assert runpy.run_path(str(FOLDER / "examples" / "plain_loop.py"))["main"]() > 0.8
    assert "accuracy: teacher" in capsys.readouterr().out


def test_the_example_for_torchdistill_registers_losses_that_read_its_dictionaries(monkeypatch):
    registered = {}
    registry = types.ModuleType("torchdistill.losses.registry")
    registry.register_mid_level_loss = lambda cls: registered.setdefault(cls.__name__, cls)
    for name in ("torchdistill", "torchdistill.losses"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    runpy.run_path(str(FOLDER / "examples" / "torchdistill_loss.py"))
    at = {"student": {"path": "fc", "io": "output"}, "teacher": {"path": ".", "io": "output"}}
    student, teacher, labels = torch.randn(4, 5), torch.randn(4, 5), torch.arange(4)
    traces = {"fc": {"output": student}}, {".": {"output": teacher}}
    kd = registered["FusedLogitLoss"]("KdKl", **at, options={"temperature": 2.0})
    assert torch.equal(kd(*traces, labels), K.kd_kl(student, teacher, temperature=2.0).mean())
    dkd = registered["FusedLogitLoss"]("Dkd", **at)
    assert torch.equal(dkd(*traces, labels), K.dkd(student, teacher, labels).mean())
    hint = registered["FusedMapLoss"]("HintMse", **at)
    assert torch.equal(hint(*traces, labels), K.hint_mse(student, teacher).mean())
