"""The program for boards: Python 3.8, the standard library alone, the same bytes every time."""

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgekd.boards import onboard
from edgekd.boards.onboard import facts, receive
from edgekd.boards.onboard.place import Refusal, Store
from edgekd.boards.program import BOOTSTRAP, PACKAGE, board_program

SOURCES = sorted(Path(onboard.__file__).parent.glob("*.py"))
SHA = "0" * 64


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_is_python_3_8_and_imports_only_the_standard_library(source) -> None:
    tree = ast.parse(source.read_text(), feature_version=(3, 8))
    allowed = sys.stdlib_module_names | ({"tensorrt"} if source.stem == "python_trt" else set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {name.name.split(".")[0] for name in node.names} <= allowed
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in sys.stdlib_module_names


def test_bootstrap_can_be_read_by_any_python_3() -> None:
    ast.parse(BOOTSTRAP, feature_version=(3, 4))


def test_zip_holds_the_sources_and_is_the_same_every_time() -> None:
    program = board_program()
    board_program.cache_clear()
    assert board_program() == program
    with zipfile.ZipFile(io.BytesIO(program.content)) as archive:
        assert set(archive.namelist()) == {"__main__.py", *(f"{PACKAGE}/{path.name}" for path in SOURCES)}


def pythons() -> list[str]:
    named = [shutil.which(f"python3.{minor}") for minor in (8, 10, 12)]
    return [sys.executable, *filter(None, [*named, os.environ.get("EDGEKD_TEST_BOARD_PYTHON")])]


@pytest.mark.parametrize("python", pythons())
def test_program_answers_under_every_python_here(python, tmp_path) -> None:
    if subprocess.run([python, "-c", ""], check=False, capture_output=True).returncode != 0:
        pytest.skip(f"{python} does not start")
    program, environment = board_program(), {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    kept = subprocess.run(
        [python, "-c", BOOTSTRAP, program.sha256],
        input=program.content,
        capture_output=True,
        env=environment,
        check=True,
    )
    path = json.loads(kept.stdout.split(b"EDGEKD-BOARD ")[1])["program"]
    said = subprocess.run(
        [python, path, "/", "facts"], input=b"print('sm=87')", capture_output=True, env=environment, check=True
    )
    answer = json.loads(said.stdout.split(b"EDGEKD-BOARD ")[1])
    assert answer["gpu"] == {"text": "sm=87\n"}
    assert answer["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert answer["memory"]["total_bytes"] > answer["memory"]["available_bytes"] > 0
    assert answer["disk"]["free_bytes"] > 0


def test_bootstrap_refuses_a_program_that_was_damaged(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOOTSTRAP, SHA],
        input=b"damaged",
        capture_output=True,
        env={"HOME": str(tmp_path)},
        check=True,
    )
    assert json.loads(done.stdout.split(b"EDGEKD-BOARD ")[1]) == {"program": None}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("digits", "version"), [("8502", "8.5.2"), ("8602", "8.6.2"), ("100300", "10.3.0"), ("110401", "11.4.1")]
)
def test_number_of_the_banner_is_read(digits, version) -> None:
    assert facts._version(digits) == version


def test_only_digests_become_paths(tmp_path) -> None:
    store = Store(tmp_path, Path("/"))
    for evil in ("../../etc", "a" * 63, "A" * 64, SHA + "\n", ""):
        with pytest.raises(Refusal, match="not a digest"):
            store.job(evil)


def test_part_that_is_there_is_never_overwritten_by_an_offset_that_is_not_its_end(tmp_path) -> None:
    store = Store(tmp_path, Path("/"))
    receive.receive(store, SHA, 10, 0, io.BytesIO(b"abc"))
    assert receive.held(store, SHA) == {"size_bytes": 3, "is_complete": False}
    with pytest.raises(Refusal) as refusal:
        receive.receive(store, SHA, 10, 2, io.BytesIO(b"xyz"))
    assert refusal.value.document["kind"] == "offset"
    with pytest.raises(Refusal) as refusal:
        receive.receive(store, SHA, 10, 3, io.BytesIO(b"defghij"))
    assert refusal.value.document["kind"] == "digest"
    assert receive.held(store, SHA) == {"size_bytes": 0, "is_complete": False}


def test_receiver_whose_connection_hangs_is_taken_over(tmp_path) -> None:
    program = tmp_path / "tools" / "p.pyz"
    program.parent.mkdir()
    program.write_bytes(board_program().content)
    command = [sys.executable, str(program), "/", "receive", SHA, "10", "0"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hanging:
        hanging.stdin.write(b"abc")
        hanging.stdin.flush()
        lock = tmp_path / "blobs" / f"{SHA}.lock"
        while not (lock.is_file() and lock.read_text()):
            assert hanging.poll() is None
        done = subprocess.run([*command[:-1], "0"], input=b"", capture_output=True, check=False, timeout=30)
        assert b'"error"' not in done.stdout or b"offset" in done.stdout
        assert hanging.wait(10) == -9


def test_old_jobs_and_unused_files_are_forgotten_but_not_the_current_one(tmp_path) -> None:
    store = Store(tmp_path, Path("/"))
    digests = [f"{index:064x}" for index in range(20)]
    for index, digest in enumerate(digests):
        folder = store.job(digest)
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"status": "building" if index == 1 else "done"}))
        os.utime(folder, (index, index))
    old, new, used = (store.blob(f"{index:064x}") for index in (100, 101, 102))
    old.parent.mkdir()
    for blob in (old, new, used):
        blob.write_bytes(b"x")
    os.utime(old, (0, 0))
    os.utime(used, (0, 0))
    os.link(used, tmp_path / "link")
    store.prune(digests[0])
    left = {path.name for path in (tmp_path / "jobs").iterdir()}
    assert left == {digests[0], digests[1], *digests[4:]}
    assert [blob.exists() for blob in (old, new, used)] == [False, True, True]
