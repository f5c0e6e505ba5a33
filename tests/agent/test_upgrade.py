"""A new agent takes the place of the old one by one switch, and only after it was seen to start."""

import hashlib
import json

import pytest
from edgekd_agent.__main__ import main


def program(tmp_path, version: str, *, body: str = "") -> tuple[str, str]:
    path = tmp_path / f"agent-{version}.py"
    path.write_text(body or f"import json, sys; print(json.dumps({{'agent': '{version}', 'words': sys.argv[1:]}}))\n")
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def upgrade(capsys, file: str, digest: str, folder) -> tuple[int, dict]:
    code = main(["upgrade", file, "--sha256", digest, "--into", str(folder), "--json"])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


def test_agents_follow_each_other_and_the_last_but_one_is_kept(tmp_path, capsys) -> None:
    folder = tmp_path / "opt"
    for version in ("1", "2", "3"):
        file, digest = program(tmp_path, version)
        code, document = upgrade(capsys, file, digest, folder)
        assert (code, document["agent"]) == (0, version)
        assert f"'agent': '{version}'" in (folder / "agent" / "edgekd-agent.pyz").read_text()
    assert "'agent': '2'" in (folder / "agent.previous" / "edgekd-agent.pyz").read_text()
    assert len(list(folder.glob("agent-*"))) == 2
    assert upgrade(capsys, file, digest, folder)[0] == 0
    assert "'agent': '2'" in (folder / "agent.previous" / "edgekd-agent.pyz").read_text()


@pytest.mark.parametrize(
    "body", ["raise SystemExit(1)\n", "print('hello')\n", "print('{}')\n", "import nothing_like_it\n"]
)
def test_agent_that_does_not_start_changes_nothing(tmp_path, capsys, body) -> None:
    folder = tmp_path / "opt"
    upgrade(capsys, *program(tmp_path, "1"), folder)
    code, document = upgrade(capsys, *program(tmp_path, "2", body=body), folder)
    assert (code, document["error"]["kind"]) == (1, "failed")
    assert "'agent': '1'" in (folder / "agent" / "edgekd-agent.pyz").read_text()


def test_agent_of_other_bytes_changes_nothing(tmp_path, capsys) -> None:
    folder = tmp_path / "opt"
    file, _ = program(tmp_path, "1")
    code, document = upgrade(capsys, file, "0" * 64, folder)
    assert (code, document["error"]["kind"]) == (1, "damaged")
    assert not folder.exists()


def test_place_that_was_left_half_written_is_written_again(tmp_path, capsys) -> None:
    folder = tmp_path / "opt"
    file, digest = program(tmp_path, "1")
    place = folder / f"agent-{digest[:16]}"
    place.mkdir(parents=True)
    (place / "edgekd-agent.pyz").write_text("half")
    assert upgrade(capsys, file, digest, folder)[0] == 0
    assert "'agent': '1'" in (folder / "agent" / "edgekd-agent.pyz").read_text()


def test_wrong_usage_is_named(tmp_path, capsys) -> None:
    file, digest = program(tmp_path, "1")
    assert upgrade(capsys, file, "digest", tmp_path)[0] == 2
    assert upgrade(capsys, file + ".absent", digest, tmp_path)[0] == 2
