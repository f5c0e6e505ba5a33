"""`edgekd ship`: documents, exit codes, dry runs that write nothing, and messages that say what to do."""

import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from edgekd.cli.commands.ship import signing_options
from edgekd.ship import Golden
from edgekd.ship.golden import npz_bytes


@pytest.fixture
def golden(tmp_path):
    path = tmp_path / "golden.npz"
    rng = np.random.default_rng(0)
    path.write_bytes(npz_bytes(Golden(rng.random((2, 3, 8, 8), dtype=np.float32), np.ones((2, 10), np.float32))))
    return path


@pytest.fixture
def onnx(tmp_path, write_onnx):
    return write_onnx(tmp_path / "net.onnx")


@pytest.fixture
def bundle(tmp_path, edgekd, onnx, golden):
    result = edgekd("ship", "pack", onnx, "--golden", golden, "-o", tmp_path / "bundle")
    assert result.exit_code == 0, result.output
    return tmp_path / "bundle"


@pytest.fixture
def fleet(tmp_path, edgekd):
    """Return options that name a repository and its keys."""
    options = ["--repo", tmp_path / "repo", "--keys", tmp_path / "keys"]
    assert edgekd("ship", "keys", "init", *options, "--group", "canary").exit_code == 0
    return options


def _tree(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _document(result):
    assert result.stdout, result.output
    return json.loads(result.stdout)


def test_onnx_is_packed_with_its_health_check_and_build_plan(edgekd, bundle):
    document = _document(edgekd("ship", "inspect", bundle, "--json"))
    assert document["is_intact"] is True
    manifest = document["manifest"]
    assert (manifest["name"], manifest["version"]) == ("net", 1)
    assert manifest["targets"][0]["device"] == "cpu"
    assert manifest["build"]["backend"] == "onnxruntime"
    assert manifest["health"]["tolerance"] == pytest.approx(1e-3)


def test_packing_twice_gives_the_same_bytes(edgekd, onnx, golden, tmp_path):
    documents = []
    for name in ("one", "two"):
        words = ["--golden", golden, "-o", tmp_path / name, "--tar", tmp_path / f"{name}.tar", "--json"]
        documents.append(_document(edgekd("ship", "pack", onnx, *words)))
    assert documents[0]["bundle_sha256"] == documents[1]["bundle_sha256"]
    assert documents[0]["tar"]["sha256"] == documents[1]["tar"]["sha256"]


def test_options_of_an_onnx_file_reach_the_manifest(edgekd, onnx, golden, tmp_path):
    words = ["--golden", golden, "--target", "jetson-orin", "--budget", "p99<8ms", "--name", "line", "--version", "3"]
    words += ["--tolerance", "0.5", "--recipe", golden, "--data", onnx, "-o", tmp_path / "bundle"]
    assert edgekd("ship", "pack", onnx, *words).exit_code == 0
    manifest = _document(edgekd("ship", "inspect", tmp_path / "bundle", "--json"))["manifest"]
    assert (manifest["name"], manifest["version"]) == ("line", 3)
    assert manifest["health"]["budget_ms"] == {"p99": 8.0}
    assert manifest["health"]["tolerance"] == 0.5
    assert manifest["targets"][0]["device"] == "jetson-agx-orin-64gb"
    assert "0" * 64 not in (manifest["provenance"]["recipe_sha256"], manifest["provenance"]["data_sha256"])


def test_run_folder_tar_and_bundle_are_packed_again(edgekd, bundle, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    bundle.rename(run / "bundle")
    first = edgekd("ship", "pack", run, "--tar", tmp_path / "a.tar", "--version", "2", "--json")
    assert _document(first)["version"] == 2
    assert edgekd("ship", "pack", tmp_path / "a.tar", "-o", tmp_path / "again").exit_code == 0
    again = _document(edgekd("ship", "verify", tmp_path / "again", "--json"))
    assert again["bundle_sha256"] == _document(first)["bundle_sha256"]


def test_pack_refuses_to_overwrite_and_writes_nothing_on_a_dry_run(edgekd, onnx, golden, bundle, tmp_path):
    before = _tree(tmp_path)
    again = edgekd("ship", "pack", onnx, "--golden", golden, "-o", bundle)
    assert again.exit_code == 2
    assert "--force" in again.output
    dry = edgekd("ship", "pack", onnx, "--golden", golden, "-o", tmp_path / "new", "--dry-run", "--json")
    assert (dry.exit_code, _document(dry)["would_write"]) == (0, [str(tmp_path / "new")])
    assert _tree(tmp_path) == before
    assert edgekd("ship", "pack", onnx, "--golden", golden, "-o", bundle, "--force").exit_code == 0


def test_golden_inputs_of_another_network_are_refused(edgekd, onnx, tmp_path):
    other = Golden(np.zeros((2, 1, 9, 9), np.float32), np.zeros((2, 10), np.float32))
    (tmp_path / "other.npz").write_bytes(npz_bytes(other))
    refused = edgekd("ship", "pack", onnx, "--golden", tmp_path / "other.npz", "-o", tmp_path / "new")
    assert refused.exit_code == 2
    assert "is of another network" in refused.stderr and "[2, 1, 9, 9]" in refused.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["{onnx}"], 2, "say where to"),
        (["{onnx}", "-o", "{tmp}/new"], 2, "needs --golden"),
        (["{bundle}", "-o", "{tmp}/new", "--name", "x"], 2, "only of an ONNX file"),
        (["{tmp}/absent", "-o", "{tmp}/new"], 2, "no such bundle"),
        (["{tmp}/empty", "-o", "{tmp}/new"], 2, "neither a bundle nor a finished run"),
        (["{golden}", "-o", "{tmp}/new"], 6, "not to be trusted"),
        (["{onnx}", "--golden", "{tmp}/absent.npz", "-o", "{tmp}/new"], 2, "absent.npz"),
        (["{onnx}", "--golden", "{onnx}", "-o", "{tmp}/new"], 6, "not a golden npz"),
        (["{bundle}", "-o", "{tmp}/new", "--engine", "{golden}"], 2, "need one --facts"),
        (["{bundle}", "-o", "{tmp}/new", "--engine", "{golden}", "--facts", "{golden}"], 2, "hello"),
    ],
)
def test_wrong_use_of_pack_says_what_to_do(edgekd, onnx, golden, bundle, tmp_path, words, code, message):
    (tmp_path / "empty").mkdir()
    places = {"onnx": onnx, "golden": golden, "bundle": bundle, "tmp": tmp_path}
    result = edgekd("ship", "pack", *[word.format(**places) for word in words])
    assert result.exit_code == code, result.output
    assert message in result.output
    assert not (tmp_path / "new").exists()


def test_engine_of_a_device_is_packed_under_its_key(edgekd, onnx, golden, tmp_path):
    facts = {"machine": "aarch64", "model": "Orin", "l4t": "36.4.3", "gpu": "Orin", "sm": 87, "tensorrt": "10.3.0"}
    (tmp_path / "facts.json").write_text(json.dumps({"facts": facts}))
    (tmp_path / "model.plan").write_bytes(b"engine")
    words = ["--golden", golden, "--target", "jetson-orin", "-o", tmp_path / "bundle"]
    words += ["--engine", tmp_path / "model.plan", "--facts", tmp_path / "facts.json"]
    assert edgekd("ship", "pack", onnx, *words).exit_code == 0
    listed = edgekd("ship", "inspect", tmp_path / "bundle").stdout
    assert "engines/" in listed
    assert "recipe unknown" in listed


def test_verify_ends_with_6_for_a_changed_bundle_and_for_a_hostile_tar(edgekd, bundle, tmp_path):
    assert edgekd("ship", "verify", bundle).exit_code == 0
    (bundle / "golden.npz").write_bytes(b"")
    broken = edgekd("ship", "verify", bundle, "--json")
    assert broken.exit_code == 6
    assert _document(broken)["error"]["exit_code"] == 6
    assert edgekd("ship", "inspect", bundle).exit_code == 0
    with tarfile.open(tmp_path / "hostile.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"))
    assert edgekd("ship", "verify", tmp_path / "hostile.tar").exit_code == 6
    assert not (tmp_path.parent / "escaped").exists()


def test_publish_tells_what_the_group_wants_and_for_how_long(edgekd, fleet, bundle):
    result = edgekd("ship", "publish", bundle, "--group", "canary", *fleet, "--json")
    document = _document(result)
    assert (document["group"], document["name"], document["is_changed"]) == ("canary", "net", True)
    again = edgekd("ship", "publish", bundle, "--group", "canary", *fleet)
    assert "wants already" in again.stdout
    shown = edgekd("ship", "keys", "show", *fleet)
    assert "net 1" in shown.stdout
    assert document["bundle_sha256"] in shown.stdout


def test_publish_takes_a_tar_and_narrows_the_devices(edgekd, fleet, bundle, tmp_path):
    edgekd("ship", "pack", bundle, "--tar", tmp_path / "b.tar")
    words = ["--group", "canary", *fleet, "--select", "device_id=robot-7", "--json"]
    document = _document(edgekd("ship", "publish", tmp_path / "b.tar", *words))
    assert document["selectors"] == [{"device": "cpu", "device_id": "robot-7"}]
    wrong = edgekd("ship", "publish", bundle, "--group", "canary", *fleet, "--select", "robot-7")
    assert wrong.exit_code == 2
    assert "KEY=VALUE" in wrong.output


@pytest.mark.parametrize(
    "words",
    [
        ["publish", "{bundle}", "--group", "canary"],
        ["refresh"],
        ["keys", "rotate", "timestamp"],
        ["keys", "rotate", "canary"],
        ["keys", "renew"],
        ["keys", "add", "lab"],
        ["keys", "revoke", "{key}"],
    ],
)
def test_dry_run_writes_nothing_and_then_the_real_one_does_what_it_said(edgekd, fleet, bundle, tmp_path, words):
    key = _document(edgekd("ship", "keys", "show", *fleet, "--json"))["roles"][1]["keys"][0]
    words = [word.format(bundle=bundle, key=key) for word in words]
    before = _tree(tmp_path)
    dry = edgekd("ship", *words, *fleet, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    said = _document(dry)
    assert said["is_dry_run"] is True
    assert str(tmp_path / "repo") in said["would_write"]
    assert _tree(tmp_path) == before
    real = edgekd("ship", *words, *fleet, "--json")
    assert real.exit_code == 0, real.output
    did = _document(real)
    assert _tree(tmp_path) != before
    for fact in ("root_version", "bundle_sha256", "roles"):
        assert said.get(fact) == did.get(fact)


def test_init_dry_run_makes_nothing(edgekd, tmp_path):
    words = ["--repo", tmp_path / "r", "--keys", tmp_path / "k", "--group", "canary", "--dry-run"]
    result = edgekd("ship", "keys", "init", *words)
    assert (result.exit_code, list(tmp_path.iterdir())) == (0, [])
    assert "6 keys" in result.stdout


def test_signing_elsewhere_and_importing(edgekd, fleet, tmp_path):
    for number, key in enumerate(sorted((tmp_path / "keys").glob("root.*.pem"))):
        (tmp_path / f"home{number}").mkdir(mode=0o700)
        key.rename(tmp_path / f"home{number}" / key.name)
    waiting = _document(edgekd("ship", "keys", "rotate", "targets", *fleet, "--json"))
    assert waiting["signatures_missing"] == 2
    root = waiting["pending"]
    dry = edgekd("ship", "keys", "sign", root, "--keys", tmp_path / "home0", "--dry-run", "--json")
    assert _document(dry)["root"]["version"] == 2
    for number in (0, 1):
        copy = tmp_path / "carried.json"
        copy.write_bytes((tmp_path / "repo" / "pending" / "2.root.json").read_bytes())
        assert edgekd("ship", "keys", "sign", copy, "--keys", tmp_path / f"home{number}").exit_code == 0
        plan = _document(edgekd("ship", "keys", "import", copy, *fleet, "--dry-run", "--json"))
        assert plan["signatures_missing"] == 1 - number
        done = _document(edgekd("ship", "keys", "import", copy, *fleet, "--json"))
        assert done["signatures_missing"] == 1 - number
    assert done["pending"] is None
    assert edgekd("ship", "keys", "import", copy, *fleet).exit_code == 2


def test_export_fills_the_staging_of_a_device(edgekd, fleet, bundle, tmp_path):
    from datetime import datetime, timezone

    from edgekd_agent.trust import Device, desired_release

    words = ["ship", "export", "--group", "canary", *fleet[:2], "-o", tmp_path / "stick" / "staging"]
    assert edgekd(*words).exit_code == 2
    published = _document(edgekd("ship", "publish", bundle, "--group", "canary", *fleet, "--json"))
    assert edgekd(*words, "--dry-run").exit_code == 0
    assert not (tmp_path / "stick").exists()
    assert edgekd(*words).exit_code == 0
    assert edgekd(*words).exit_code == 2
    assert edgekd(*words, "--force").exit_code == 0
    staging, trust, now = tmp_path / "stick" / "staging", tmp_path / "trust", datetime.now(timezone.utc)
    trust.mkdir()
    (trust / "root.json").write_bytes((tmp_path / "repo" / "metadata" / "1.root.json").read_bytes())
    device = Device("robot-7", "canary", {"device": "cpu"})
    release = desired_release(trust, staging / "metadata", device, now=now, clock_floor=now)
    assert release.bundle_sha256 == published["bundle_sha256"]
    for artifact in release.manifest.artifacts:
        assert (staging / "blobs" / f"{artifact.sha256}.part").read_bytes() == (bundle / artifact.path).read_bytes()


def test_withdraw_takes_back_what_nobody_wants(edgekd, fleet, bundle, tmp_path):
    first = _document(edgekd("ship", "publish", bundle, "--group", "canary", *fleet, "--json"))["bundle_sha256"]
    assert edgekd("ship", "withdraw", first, *fleet).exit_code == 2
    edgekd("ship", "publish", bundle, "--group", "canary", "--version", "2", *fleet)
    before = _tree(tmp_path)
    assert _document(edgekd("ship", "withdraw", first, *fleet, "--dry-run", "--json"))["dropped_blobs"] == []
    assert _tree(tmp_path) == before
    assert edgekd("ship", "withdraw", first, *fleet).exit_code == 0


def test_changed_repository_ends_with_6_and_missing_key_with_5(edgekd, fleet, bundle, tmp_path):
    (key,) = (tmp_path / "keys").glob("canary.*.pem")
    aside = key.rename(tmp_path / "aside.pem")
    missing = edgekd("ship", "publish", bundle, "--group", "canary", *fleet)
    assert missing.exit_code == 5
    assert "has no key of" in missing.output
    aside.rename(key)
    stamp = tmp_path / "repo" / "metadata" / "timestamp.json"
    stamp.write_bytes(stamp.read_bytes().replace(b'"version":1', b'"version":7'))
    changed = edgekd("ship", "publish", bundle, "--group", "canary", *fleet)
    assert changed.exit_code == 6


def test_passphrase_is_taken_from_the_environment_and_is_no_option(edgekd, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEKD_KEY_PASSPHRASE", "secret")
    options = ["--repo", tmp_path / "r", "--keys", tmp_path / "k"]
    made = edgekd("ship", "keys", "init", *options, "--group", "canary", "--json")
    assert _document(made)["is_encrypted"] is True
    assert "secret" not in made.output
    assert edgekd("ship", "refresh", *options).exit_code == 0
    monkeypatch.delenv("EDGEKD_KEY_PASSPHRASE")
    refused = edgekd("ship", "refresh", *options)
    assert refused.exit_code == 5
    assert "EDGEKD_KEY_PASSPHRASE" in refused.output
    assert edgekd("ship", "refresh", *options, "--passphrase", "secret").exit_code == 2


def test_new_passphrase_is_asked_twice_on_a_terminal(monkeypatch):
    answers = iter(["one", "two", "same", "same", ""])
    monkeypatch.setattr(signing_options.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(signing_options.getpass, "getpass", lambda _: next(answers))
    with pytest.raises(signing_options.ConfigError, match="not the same"):
        signing_options.new_passphrase()
    assert signing_options.new_passphrase() == "same"
    assert signing_options.new_passphrase() is None


def test_passphrase_is_asked_once_for_a_command(monkeypatch):
    asked = []
    monkeypatch.setattr(signing_options.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(signing_options.getpass, "getpass", lambda text: asked.append(text) or "secret")
    prompt = signing_options.passphrase_prompt()
    assert [prompt(), prompt()] == ["secret", "secret"]
    assert len(asked) == 1


def test_missing_packages_say_which_extra_installs_them(edgekd, tmp_path, monkeypatch):
    monkeypatch.setattr(signing_options.importlib.util, "find_spec", lambda name: None)
    result = edgekd("ship", "refresh", "--repo", tmp_path, "--keys", tmp_path / "k")
    assert result.exit_code == 5
    assert "edgekd[ship]" in result.output


@pytest.mark.parametrize(
    "words",
    [["pack"], ["inspect"], ["verify"], ["publish"], ["export"], ["refresh"], ["withdraw"], ["keys", "init"],
     ["keys", "rotate"], ["keys", "revoke"], ["keys", "renew"], ["keys", "add"], ["keys", "sign"], ["keys", "import"],
     ["keys", "show"]],
    ids=" ".join,
)  # fmt: skip
def test_every_command_has_json_and_an_example(edgekd, words):
    shown = edgekd("ship", *words, "--help").stdout
    assert f"edgekd ship {' '.join(words)} " in shown
    assert "--json" in shown
    if words[-1] not in ("inspect", "verify", "show"):
        assert "--dry-run" in shown


def test_help_imports_no_tuf():
    code = (
        "import sys; from edgekd.cli.main import app; from typer.testing import CliRunner;"
        "CliRunner().invoke(app, ['ship', 'keys', '--help']);"
        "print(sorted({'tuf', 'cryptography', 'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
