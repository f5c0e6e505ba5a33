"""`python -m edgekd_agent verify`: exit codes, its JSON document, and what it may import."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import edgekd_agent
import pytest
from edgekd_agent.__main__ import main

AGENT_ROOT = Path(edgekd_agent.__file__).parents[1]


def test_verify_ends_with_0_for_an_intact_bundle(bundle, capsys):
    assert main(["verify", str(bundle)]) == 0
    assert "digits-student version 3: 3 files, 19 bytes, all intact" in capsys.readouterr().out


def test_verify_ends_with_6_and_names_every_problem(bundle, capsys):
    (bundle / "golden.npz").unlink()
    (bundle / "extra.bin").touch()
    assert main(["verify", str(bundle)]) == 6
    shown = capsys.readouterr().out
    assert "golden.npz: listed, but not there" in shown
    assert "extra.bin: not listed" in shown


def test_verify_ends_with_6_for_a_folder_without_manifest(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 6
    assert "bundle.json: cannot be read" in capsys.readouterr().out


def test_verify_ends_with_2_when_the_folder_is_absent(tmp_path, capsys):
    assert main(["verify", str(tmp_path / "absent")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "is not a folder" in captured.err


@pytest.mark.parametrize("arguments", [[], ["verify"], ["install", "x"], ["verify", "x", "--yaml"]])
def test_wrong_usage_ends_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_json_is_one_document(bundle, capsys):
    assert main(["verify", str(bundle), "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["schema_version"] == 1
    assert (whole["is_intact"], whole["name"], whole["version"], whole["files"]) == (True, "digits-student", 3, 3)
    assert (whole["size_bytes"], whole["problems"]) == (19, [])
    (bundle / "golden.npz").write_bytes(b"x")
    assert main(["verify", str(bundle), "--json"]) == 6
    broken = json.loads(capsys.readouterr().out)
    assert [(item["path"], item["kind"]) for item in broken["problems"]] == [("golden.npz", "size")]
    (bundle / "bundle.json").unlink()
    assert main(["verify", str(bundle), "--json"]) == 6
    absent = json.loads(capsys.readouterr().out)
    assert (absent["name"], absent["manifest_sha256"]) == (None, None)


def _interpreters() -> list[str]:
    found = [shutil.which(f"python3.{minor}") for minor in range(10, 15)]
    probe = ["-I", "-c", ""]
    runs = [
        path
        for path in found
        if path and not subprocess.run([path, *probe], capture_output=True, check=False).returncode
    ]
    return [sys.executable, *runs]


@pytest.mark.parametrize("python", _interpreters())
def test_agent_runs_alone_on_every_python_here(python, bundle):
    """-I -S: no site packages, no current folder: only the standard library and the agent itself."""
    code = (
        f"import sys; sys.path.insert(0, {str(AGENT_ROOT)!r}); from edgekd_agent.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [python, "-I", "-S", "-c", code, "verify", str(bundle), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["is_intact"] is True


def test_agent_imports_nothing_outside_the_standard_library():
    code = (
        f"import sys; sys.path.insert(0, {str(AGENT_ROOT)!r}); import edgekd_agent, edgekd_agent.__main__;"
        "print('\\n'.join(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    strangers = set(done.stdout.split()) - set(sys.stdlib_module_names) - {"edgekd_agent", "__main__"}
    assert not strangers
