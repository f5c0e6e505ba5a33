"""`edgekd ship agent`."""

import hashlib
import json
import zipfile

from typer.testing import CliRunner

from edgekd.cli.main import app


def run(*words: str):
    return CliRunner().invoke(app, ["ship", "agent", *words])


def test_agent_is_written_and_named_by_its_digest(tmp_path) -> None:
    out = tmp_path / "edgekd-agent.pyz"
    done = run("--out", str(out), "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert document["size_bytes"] == out.stat().st_size < 1_500_000
    assert set(document["versions"]) == {"edgekd_agent", "tuf", "securesystemslib"}
    assert "edgekd_agent/__main__.py" in zipfile.ZipFile(out).namelist()


def test_file_that_is_there_is_not_overwritten_unasked(tmp_path) -> None:
    out = tmp_path / "edgekd-agent.pyz"
    out.write_text("mine")
    assert run("--out", str(out)).exit_code == 2
    assert out.read_text() == "mine"
    assert run("--out", str(out), "--force").exit_code == 0
    assert out.stat().st_size > 100_000


def test_dry_run_writes_nothing(tmp_path) -> None:
    out = tmp_path / "edgekd-agent.pyz"
    done = run("--out", str(out), "--dry-run", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["would_write"] == [str(out)]
    assert not out.exists()
