"""The agent as one zip file: the same bytes every time, small, and enough for a bare Python."""

import io
import json
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from provisioned import Signer, provision

from edgekd.core.errors import ConfigError
from edgekd.ship import agent_program as packing
from edgekd.ship.agent_program import MAX_PROGRAM_BYTES, agent_program


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "edgekd-agent.pyz"
    path.write_bytes(agent_program().content)
    return path


def bare(program, *words: str) -> subprocess.CompletedProcess:
    """Run it as on a board without pip: no site packages, no environment, no current folder."""
    return subprocess.run(
        [sys.executable, "-I", "-S", str(program), *words], capture_output=True, text=True, check=False, env={}, cwd="/"
    )


def test_equal_sources_give_equal_bytes() -> None:
    assert agent_program() == agent_program()
    assert len(agent_program().content) < MAX_PROGRAM_BYTES


def test_it_holds_sources_and_licences_and_nothing_else() -> None:
    with zipfile.ZipFile(io.BytesIO(agent_program().content)) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
        assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names == sorted(names)
    assert {name for name in names if not name.endswith(".py") and "LICENSE" not in name} == set()
    for package in ("tuf", "securesystemslib"):
        assert any(name.startswith(f"licenses/{package}/LICENSE") for name in names)
    assert "securesystemslib/_vendor/ed25519/LICENSE" in names
    assert not any("test" in name for name in names if name.startswith(("tuf/", "securesystemslib/")))
    assert agent_program().versions["tuf"] == metadata.version("tuf")


def test_bare_python_verifies_metadata_with_it(program, tmp_path) -> None:
    """`hello` verifies the root of trust with what is inside: neither urllib3 nor cryptography is there."""
    provision(tmp_path / "device", Signer())
    done = bare(program, "--root", str(tmp_path / "device"), "hello", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["root_version"] == 1
    code = "import sys; sys.path.insert(0, sys.argv[1]); import cryptography"
    words = [sys.executable, "-I", "-S", "-c", code, str(program)]
    assert "ModuleNotFoundError" in subprocess.run(words, capture_output=True, text=True, check=False, env={}).stderr


def test_every_command_starts_with_it_alone(program) -> None:
    done = bare(program, "--help")
    assert done.returncode == 0
    listed = done.stdout.partition("{")[2].partition("}")[0].split(",")
    assert len(listed) >= 16
    for word in listed:
        assert bare(program, word, "--help").returncode == 0, word


def test_missing_package_is_named(monkeypatch) -> None:
    monkeypatch.setattr(packing, "_VENDORED", ("no_such_package",))
    with pytest.raises(ConfigError, match="no_such_package is not installed here"):
        agent_program()


def test_program_that_became_too_big_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(packing, "MAX_PROGRAM_BYTES", 1000)
    with pytest.raises(ConfigError, match="at most 1000"):
        agent_program()
