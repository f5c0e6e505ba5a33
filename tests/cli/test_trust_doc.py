"""Every command of docs/trust.md runs as it is written, in its order."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgekd.ship import Golden
from edgekd.ship.golden import npz_bytes

DOCUMENT = Path(__file__).parents[2] / "docs" / "trust.md"


def _commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def _write_golden(onnx: Path, path: Path) -> None:
    inputs = np.random.default_rng(0).random((4, 3, 8, 8), dtype=np.float32)
    session = onnxruntime.InferenceSession(str(onnx))
    path.write_bytes(npz_bytes(Golden(inputs, session.run(None, {"in0": inputs})[0])))


@pytest.fixture
def here(tmp_path, monkeypatch, write_onnx):
    monkeypatch.chdir(tmp_path)
    write_onnx(tmp_path / "net.onnx")
    _write_golden(tmp_path / "net.onnx", tmp_path / "golden.npz")
    return tmp_path


def test_commands_of_the_page_run_as_written(here, edgekd):
    done = []
    for line in _commands():
        if line.startswith("cp "):
            _take_root_keys_home(here)
            assert edgekd(*shlex.split("ship keys rotate targets --repo fleet-repo --keys keys")).exit_code == 0
            (pending,) = (here / "fleet-repo" / "pending").iterdir()
            shutil.copyfile(pending, here / "carried.json")
            continue
        words = [_root_key(edgekd) if word == "KEY" else word for word in shlex.split(line)]
        assert words[0] == "edgekd"
        result = edgekd(*words[1:])
        assert result.exit_code == 0, f"{line}\n{result.output}"
        done.append(" ".join(words[1:4]))
    assert len(done) >= 12
    assert {
        "ship keys init",
        "ship keys sign",
        "ship keys import",
        "ship publish bundle",
        "ship refresh --repo",
    } <= set(done)


def _root_key(edgekd) -> str:
    shown = json.loads(edgekd("ship", "keys", "show", "--repo", "fleet-repo", "--json").stdout)
    return shown["roles"][0]["keys"][0][:16]


def _take_root_keys_home(here: Path) -> None:
    for number, key in enumerate(sorted((here / "keys").glob("root.*.pem")), start=1):
        (here / f"home-{number}").mkdir(mode=0o700)
        key.rename(here / f"home-{number}" / key.name)


def test_page_and_reasons_of_the_device_agree():
    from typing import get_args

    from edgekd_agent.trust import TrustProblem

    rows = DOCUMENT.read_text(encoding="utf-8").partition("| reason |")[2]
    assert set(re.findall(r"`([a-z-]+)`", rows.partition("\n\n")[0])) == set(get_args(TrustProblem))


def test_page_and_defaults_agree():
    from edgekd.ship.trust import Lifetimes

    text, lifetimes = DOCUMENT.read_text(encoding="utf-8"), Lifetimes()
    assert re.search(rf"\| root \|.*\| {lifetimes.root_days} days", text)
    assert re.search(rf"\| targets \|.*\| {lifetimes.targets_days} days", text)
    assert re.search(rf"\| a group .*\| {lifetimes.group_days} days", text)
    assert re.search(rf"\| snapshot, timestamp \|.*\| {lifetimes.timestamp_days} days", text)
    assert lifetimes.snapshot_days == lifetimes.timestamp_days
