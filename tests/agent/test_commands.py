"""The commands a host and an operator use, on a provisioned device with signed releases; nothing is pretended."""

import json
import os
import shutil
import time

import models
import pytest
import real_device
from edgekd_agent import journal, locks
from edgekd_agent.__main__ import main
from edgekd_agent.layout import Layout
from models import Recipe, bundle
from provisioned import Signer, provision, push, push_files


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> real_device.Template:
    return real_device.template(tmp_path_factory.mktemp("made"))


class Device:
    def __init__(self, root, template, capsys) -> None:
        self.root, self.template, self._capsys = root, template, capsys

    def __call__(self, *words: str) -> tuple[int, dict]:
        code = main(["--root", str(self.root), *words, "--json"])
        out = self._capsys.readouterr().out
        return code, json.loads(out)


@pytest.fixture
def device(made, tmp_path, capsys) -> Device:
    """Release 2 runs, release 1 is before it, release 3 is pushed."""
    return Device(made.copy(tmp_path / "device"), made, capsys)


def test_hello_says_who_it_is(device) -> None:
    code, document = device("hello")
    assert (code, document["schema_version"], document["agent"]) == (0, 1, "0.1.0")
    assert (document["device_id"], document["group"], document["root_version"]) == ("robot-7", "canary", 1)
    assert (document["state"], document["current"]["version"]) == ("idle", 2)
    assert document["facts"]["selector"] == {"device": "cpu"}
    assert document["facts"]["onnxruntime"]
    assert document["free_bytes"] > 0
    assert document["python"].startswith("3.")


def test_want_lists_what_is_missing_and_install_takes_it(device) -> None:
    wanted = device.template.wanted
    for digest in wanted.blobs:
        Layout(device.root).part(digest).unlink(missing_ok=True)
    code, document = device("want")
    release = document["release"]
    assert code == 0
    assert (release["name"], release["version"], release["bundle_sha256"]) == ("student", 3, wanted.sha256)
    assert (document["is_current"], document["bad"]) == (False, None)
    held = {path.name for path in Layout(device.root).blobs.glob("*/*")}
    assert {item["sha256"] for item in document["missing"]} == set(wanted.blobs) - held
    for item in document["missing"]:
        assert (item["size_bytes"], item["blocks"]) == (len(wanted.blobs[item["sha256"]]), [])
    device.template.push(device.root)
    code, document = device("install")
    assert (code, document["result"], document["version"]) == (0, "installed", 3)
    assert document["measured"]["latency_ms"]["p50"] > 0
    assert real_device.what_runs(device.root) == wanted.sha256
    code, document = device("want")
    assert (code, document["is_current"], document["missing"]) == (0, True, [])
    assert device("install")[1]["result"] == "nothing-to-do"


def test_want_ends_with_5_when_the_release_does_not_fit(device) -> None:
    settings = json.loads((device.root / "agent.json").read_text())
    (device.root / "agent.json").write_text(json.dumps({**settings, "reserve_mib": 1 << 40}))
    code, document = device("want")
    assert (code, document["error"]["kind"]) == (5, "space")


@pytest.mark.parametrize(("recipe", "code"), [(Recipe(5, shift=1.0), 3), (Recipe(5, model=b"no model"), 1)])
def test_release_that_fails_is_reported_and_told_to_the_next(device, recipe, code) -> None:
    release = bundle(recipe)
    push(device.root, device.template.signer, release)
    found, document = device("install")
    assert (found, document["error"]["kind"]) == (code, "health" if code == 3 else "build")
    assert device("want")[1]["bad"].endswith(document["error"]["message"])
    assert device("status")[1]["last"]["result"] == "failed"
    assert device("install")[1]["error"]["kind"] == "bad"
    assert device("forgive", release.sha256)[1]["was_bad"] is True
    assert device("want")[1]["bad"] is None
    assert device("forgive", release.sha256)[1]["was_bad"] is False


def test_metadata_that_nobody_signed_end_with_6(device) -> None:
    push(device.root, Signer(), bundle(Recipe(6)))
    code, document = device("install")
    assert (code, document["error"]["kind"]) == (6, "trust")
    assert "signature" in document["error"]["message"]
    assert real_device.what_runs(device.root) == device.template.before.sha256


def test_release_for_another_device_ends_with_4(device) -> None:
    identity = json.loads((device.root / "device.json").read_text())
    identity["selector"] = {"device": "jetson-thor"}
    (device.root / "device.json").write_text(json.dumps(identity))
    code, document = device("install")
    assert (code, document["error"]["kind"]) == (4, "incompatible")


def test_release_that_needs_a_newer_agent_ends_with_5(device) -> None:
    made = bundle(Recipe(7))
    newer = models.Bundle(made.manifest.replace(b'"min_agent":"0.1.0"', b'"min_agent":"99.0"'), made.blobs)
    push(device.root, device.template.signer, newer)
    code, document = device("install")
    assert code == 5
    assert "upgrade the agent first" in document["error"]["message"]


def test_rollback_needs_no_metadata_and_no_network(device) -> None:
    shutil.rmtree(device.root / "staging")
    shutil.rmtree(device.root / "trust")
    code, document = device("rollback", "--reason", "it drives into walls")
    assert (code, document["current"]["version"]) == (0, 1)
    assert real_device.what_runs(device.root) == bundle(Recipe(1)).sha256
    code, document = device("rollback")
    assert (code, document["error"]["kind"]) == (5, "precondition")
    assert "drives into walls" in (device.root / "bad.json").read_text()


def test_confirm_needs_something_on_trial(device) -> None:
    code, document = device("confirm")
    assert (code, document["error"]["message"]) == (5, "nothing is on trial; the state is idle")


def test_confirm_ends_a_trial_that_nobody_waits_for(device) -> None:
    last = journal.read(Layout(device.root).journal).records[-1]
    journal.append(Layout(device.root), "confirming", {**last.facts, "attempt": 1})
    assert device("status")[1]["state"] == "confirming"
    assert device("gc")[0] == 5
    assert device("confirm")[0] == 0
    assert device("status")[1]["state"] == "idle"


def test_gc_removes_what_nothing_needs(device) -> None:
    layout = Layout(device.root)
    (layout.blobs / "00").mkdir()
    (layout.blobs / "00" / ("0" * 64)).write_bytes(bytes(100))
    (layout.builds / ("1" * 64)).mkdir()
    for name in ("journal.damaged-1", "journal.damaged-2", "journal.damaged-3"):
        (layout.root / name).touch()
    code, document = device("gc")
    assert (code, document["blobs"], document["builds"], document["freed_bytes"]) == (0, 1, 1, 100)
    assert len(list(layout.root.glob("journal.damaged-*"))) == 2
    assert real_device.what_runs(device.root) == device.template.before.sha256
    assert device("rollback")[0] == 0


def test_recover_has_nothing_to_do_on_a_device_at_rest(device) -> None:
    code, document = device("recover")
    assert (code, document["done"], document["status"]["state"]) == (0, None, "idle")


def test_operators_keep_each_other_out(device) -> None:
    assert device("lock", "--owner", "ann")[1]["owner"] == "ann"
    assert device("status")[1]["operator"]["owner"] == "ann"
    code, document = device("lock", "--owner", "bob")
    assert (code, document["error"]["kind"]) == (1, "locked")
    assert "reserved by ann" in document["error"]["message"]
    assert device("unlock", "--owner", "bob")[0] == 1
    assert device("unlock", "--owner", "ann")[1]["was_reserved"] is True
    assert device("unlock", "--owner", "bob", "--force")[1]["was_reserved"] is False


def test_two_installs_at_once_are_refused(device) -> None:
    with locks.only_process(Layout(device.root)):
        code, document = device("install")
    assert (code, document["error"]["kind"]) == (1, "busy")


def test_detached_install_outlives_the_command(device) -> None:
    done = real_device.agent(device.root, "install", "--detach", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, document["result"]) == (0, "detached")
    assert os.getpgid(document["pid"]) != os.getpgid(0)
    deadline = time.monotonic() + 60
    while (now := device("status")[1])["is_busy"] or now["sequence"] == document["sequence"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (now["state"], now["last"]["result"]) == ("idle", "installed")
    assert real_device.what_runs(device.root) == device.template.wanted.sha256


def test_detached_install_says_at_once_what_it_can_know(device) -> None:
    push(device.root, Signer(), bundle(Recipe(6)))
    done = real_device.agent(device.root, "install", "--detach", "--json")
    assert done.returncode == 6


def test_old_metadata_are_refused_after_newer_ones(device) -> None:
    old, new = bundle(Recipe(8)), bundle(Recipe(9))
    first, second = (device.template.signer.release(release) for release in (old, new))
    push_files(device.root, second, new)
    assert device("want")[0] == 0
    push_files(device.root, first, old)
    code, document = device("want")
    assert (code, document["error"]["message"].partition(":")[0]) == (6, "rollback")


def test_device_that_was_not_provisioned_says_so(tmp_path, capsys) -> None:
    device = Device(tmp_path / "absent", None, capsys)
    for word in ("hello", "want", "install", "rollback"):
        code, document = device(word)
        assert code == 5, word
        assert "provision" in document["error"]["message"]
    assert device("status")[1]["current"] is None


def test_first_release_of_a_new_device(tmp_path, capsys) -> None:
    signer, release = Signer(), bundle(Recipe(1))
    provision(tmp_path / "device", signer)
    device = Device(tmp_path / "device", None, capsys)
    push(device.root, signer, release)
    assert device("hello")[1]["current"] is None
    assert device("install")[1]["generation"] == 1
    assert device("metrics")[1]["text"].count("edgekd_release_info{") == 1


def test_text_answers_are_for_people(device, capsys) -> None:
    for words in (["hello"], ["status"], ["want"], ["metrics"], ["version"]):
        assert main(["--root", str(device.root), *words]) == 0
        out = capsys.readouterr().out
        assert out.strip() and not out.startswith("{")
