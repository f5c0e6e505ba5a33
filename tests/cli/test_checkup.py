"""Each check against a machine that is made up: fake packages on the path, fake files, a fake probe."""

import dataclasses
import json
import platform
import sys
from pathlib import Path

import pytest

from edgekd.cli import checkup
from edgekd.cli.packages import OPTIONAL, Package
from edgekd.cli.probe import Probe, probe

FAKE = Package(
    name="fake-pkg",
    module="edgekd_fake_pkg",
    distributions=("edgekd-fake-pkg",),
    minimum="1.10",
    purpose="tests",
    fix="pip install fake",
    probe="import edgekd_fake_pkg",
    version_of="edgekd_fake_pkg.__version__",
)


@pytest.fixture
def fake_package(tmp_path, monkeypatch):
    """Put a package with the given source on the path of probes and of this process."""

    def write(source: str, version: str | None = None) -> None:
        (tmp_path / "edgekd_fake_pkg.py").write_text(source)
        if version is not None:
            folder = tmp_path / "edgekd_fake_pkg-1.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: edgekd-fake-pkg\nVersion: {version}\n")

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return write


@pytest.mark.parametrize(
    ("found", "status"),
    [("1.10", "ok"), ("1.10.0", "ok"), ("2.0.1+cu130", "ok"), ("1.9.9", "broken"), ("unknown", "broken")],
)
def test_package_version_is_compared_by_numbers(fake_package, found, status):
    fake_package(f"__version__ = {found!r}")
    check = checkup.check_package(FAKE, is_required=True)
    assert (check.status, check.found, check.is_failed) == (status, found, status != "ok")
    assert check.fix == ("" if status == "ok" else "pip install fake")


def test_package_that_is_not_there_is_absent_and_fails_only_when_required():
    for is_required in (True, False):
        check = checkup.check_package(FAKE, is_required=is_required)
        assert (check.status, check.found, check.is_failed) == ("absent", "not installed", is_required)


def test_package_that_is_installed_but_fails_to_import_is_broken_with_its_reason(fake_package):
    fake_package("raise RuntimeError('operator nms does not exist')", version="1.11")
    check = checkup.check_package(FAKE, is_required=False)
    assert check.status == "broken"
    assert check.found == "1.11, but: RuntimeError: operator nms does not exist"


def test_package_found_without_metadata_that_fails_to_import_is_broken(fake_package):
    fake_package("import missing_dependency")
    check = checkup.check_package(FAKE, is_required=False)
    assert check.status == "broken"
    assert "missing_dependency" in check.found


def test_package_that_kills_the_interpreter_is_broken(fake_package):
    fake_package("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", version="1.11")
    assert checkup.check_package(FAKE, is_required=False).found == "1.11, but: killed by signal 6"


def test_minimum_versions_are_those_of_the_project():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    declared = [*project["dependencies"], *(line for name, lines in extras.items() if name != "dev" for line in lines)]
    lowest = {line.split(">=")[0]: line.split(">=")[1].split(",")[0] for line in declared}
    for package in checkup.REQUIRED:
        assert package.minimum == lowest[package.name]
    for package in OPTIONAL:
        for name in package.distributions:
            if name in lowest and package.name != "tensorrt":
                assert package.minimum == lowest[name]


def answer_with(monkeypatch, answer: Probe) -> None:
    monkeypatch.setattr(checkup, "probe", lambda code: answer)


def test_two_onnxruntimes_are_a_conflict_that_fails(monkeypatch):
    monkeypatch.setattr(checkup, "_version", {"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.31.1"}.get)
    (check,) = checkup.check_onnxruntime()
    assert check.is_failed
    assert check.found.startswith("onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1")
    assert "pip uninstall" in check.fix


def test_provider_that_is_listed_but_cannot_run_is_broken_and_only_the_cpu_is_required(monkeypatch):
    refusals = {"CUDAExecutionProvider": "libcudart.so.13 missing", "CPUExecutionProvider": ""}
    answer_with(monkeypatch, Probe(True, json.dumps({"version": "1.31.1", "providers": refusals})))
    first, cuda, cpu = checkup.check_onnxruntime()
    assert (first.status, first.found) == ("ok", "1.31.1")
    assert (cuda.status, cuda.found, cuda.is_failed) == ("broken", "listed, but: libcudart.so.13 missing", False)
    assert (cpu.status, cpu.is_failed, cpu.is_required) == ("ok", False, True)


def test_cpu_provider_that_cannot_run_fails(monkeypatch):
    answer_with(monkeypatch, Probe(True, json.dumps({"version": "1.31.1", "providers": {"CPUExecutionProvider": "x"}})))
    assert [check.is_failed for check in checkup.check_onnxruntime()] == [False, True]


@pytest.mark.parametrize(("installed", "status"), [({}, "absent"), ({"onnxruntime": "1.32.0"}, "broken")])
def test_onnxruntime_that_does_not_import_fails(monkeypatch, installed, status):
    monkeypatch.setattr(checkup, "_version", installed.get)
    answer_with(monkeypatch, Probe(False, "ImportError: no"))
    (check,) = checkup.check_onnxruntime()
    assert (check.status, check.is_failed) == (status, True)


def test_real_onnxruntime_runs_on_the_cpu():
    pytest.importorskip("onnxruntime")
    checks = {check.name.strip(): check for check in checkup.check_onnxruntime()}
    assert checks["CPUExecutionProvider"].status == "ok"
    assert checks["onnxruntime"].found == probe("import onnxruntime; print(onnxruntime.__version__)").text


@pytest.mark.parametrize(
    ("answer", "status", "found"),
    [
        (Probe(True, "CUDA 13.0, NVIDIA H200 (sm_90)"), "ok", "CUDA 13.0, NVIDIA H200 (sm_90)"),
        (Probe(False, "OSError: libcuda.so.1: cannot open shared object file"), "absent", "no libcuda.so.1"),
        (Probe(False, "cuInit failed with code 100"), "broken", "cuInit failed with code 100"),
    ],
)
def test_driver_is_told_apart(monkeypatch, answer, status, found):
    answer_with(monkeypatch, answer)
    check = checkup.check_driver()
    assert (check.status, check.found, check.is_failed) == (status, found, False)


def test_board_is_read_from_the_files_of_a_jetson(tmp_path):
    assert checkup.check_board(tmp_path).status == "absent"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 1\n")
    assert checkup.check_board(tmp_path).found == "Jetson, R36 (release)"
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("NVIDIA Jetson AGX Orin Developer Kit\0")
    assert checkup.check_board(tmp_path).found == "NVIDIA Jetson AGX Orin Developer Kit, R36 (release)"


def test_python_is_this_one():
    assert checkup.check_python().found == platform.python_version()
    assert not checkup.check_python().is_failed


def test_old_python_fails(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    assert checkup.check_python().is_failed


def test_disk_and_write_access_look_at_the_nearest_folder_that_exists(tmp_path):
    assert checkup.check_writable(tmp_path / "runs" / "a").found == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert checkup.check_disk(tmp_path / "runs").is_required


def test_full_disk_and_memory_fail(tmp_path, monkeypatch):
    gib = 1 << 30
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": gib})())
    monkeypatch.setattr("psutil.virtual_memory", type("Memory", (), {"available": gib}))
    for check in (checkup.check_disk(tmp_path), checkup.check_memory()):
        assert (check.found, check.is_failed) == ("1.0 GiB free", True)
        assert check.fix


def test_folder_without_write_access_fails():
    check = checkup.check_writable(Path("/proc/runs"))
    assert check.is_failed
    assert check.found.startswith("/proc: ")


def test_checks_come_in_order_of_the_table(tmp_path, monkeypatch):
    answer_with(monkeypatch, Probe(False, "ModuleNotFoundError"))
    names = [check.name for check in checkup.check_all(tmp_path)]
    assert names[:2] == ["python", "torch"]
    assert names[-4:] == ["jetson", "memory", "disk", "write access"]
    assert len(set(names)) == len(names)
    assert dataclasses.asdict(checkup.check_python()).keys() == {
        "name",
        "status",
        "found",
        "needed",
        "fix",
        "is_required",
    }
