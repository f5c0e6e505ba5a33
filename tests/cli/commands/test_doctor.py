"""The doctor's table, verdict and exit code."""

import json

import PIL
import pytest

from edgekd.cli import checkup
from edgekd.cli.checkup import Check

FINE = Check("python", "ok", "3.12", ">= 3.10", "", True)
ABSENT = Check("tensorrt", "absent", "not installed", ">= 8.5", "pip install it", False)
BROKEN = Check("torch", "broken", "2.0", ">= 2.11", "pip install torch", True)
PROVIDER = Check("  CUDAExecutionProvider", "broken", "listed", "runs a model", "install CUDA", False)


@pytest.fixture
def checks_are(monkeypatch):
    return lambda *checks: monkeypatch.setattr(checkup, "check_all", lambda folder: list(checks))


def test_ready_machine_exits_0_and_optional_lacks_do_not_matter(edgekd, checks_are):
    checks_are(FINE, ABSENT, PROVIDER)
    result = edgekd("doctor")
    assert result.exit_code == 0
    assert result.stdout.endswith("\nready\n")
    assert "tensorrt                 absent  not installed  >= 8.5        pip install it\n" in result.stdout


def test_required_lack_exits_5_and_is_named(edgekd, checks_are):
    checks_are(FINE, BROKEN)
    result = edgekd("doctor")
    assert result.exit_code == 5
    assert "torch   FAILED  2.0    >= 2.11  pip install torch" in result.stdout
    assert result.stdout.endswith("\nnot ready: torch\n")


@pytest.mark.parametrize("name", ["tensorrt", "CUDAExecutionProvider"])
def test_optional_check_fails_when_it_is_asked_for(edgekd, checks_are, name):
    checks_are(FINE, ABSENT, PROVIDER)
    result = edgekd("doctor", "--require", "python", "--require", name, "--json")
    document = json.loads(result.stdout)
    assert result.exit_code == 5
    assert (document["is_ready"], document["failed"]) == (False, [name])
    assert document["checks"][1]["fix"] == "pip install it"


def test_unknown_check_is_a_usage_error(edgekd, checks_are):
    checks_are(FINE, ABSENT)
    result = edgekd("doctor", "--require", "tensort")
    assert (result.exit_code, result.stderr) == (2, "error: unknown check 'tensort'; did you mean tensorrt?\n")


def test_this_machine_is_checked_for_real(edgekd, tmp_path, monkeypatch):
    monkeypatch.setattr(checkup, "REQUIRED", [package for package in checkup.REQUIRED if package.name == "pillow"])
    monkeypatch.setattr(checkup, "OPTIONAL", [package for package in checkup.OPTIONAL if package.name == "triton"])
    result = edgekd("doctor", "--folder", tmp_path, "--json")
    document = json.loads(result.stdout)
    checks = {check["name"]: check for check in document["checks"]}
    failed = [name for name, check in checks.items() if check["is_required"] and check["status"] != "ok"]
    assert (checks["pillow"]["status"], checks["pillow"]["found"]) == ("ok", PIL.__version__)
    assert checks["write access"]["found"] == str(tmp_path)
    assert [name.strip() for name in failed] == document["failed"]
    assert result.exit_code == (5 if failed else 0)
