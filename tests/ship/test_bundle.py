"""Packing is whole, repeatable and refuses to destroy; the agent reads what was packed."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import edgekd_agent
import pytest

from edgekd.core.errors import BundleError, ConfigError, DataError, StorageError
from edgekd.ship import bundle as bundle_module
from edgekd.ship import inspect, pack, read_golden, verify


@pytest.fixture
def packed(tmp_path, sources, golden, plan):
    folder = tmp_path / "run" / "bundle"
    bundle = pack(folder, name="digits-student", version=1, files=sources, golden=golden, plan=plan)
    return folder, bundle


def _bytes_by_name(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_pack_writes_exactly_the_listed_files_with_their_bytes_and_digests(packed, sources):
    folder, bundle = packed
    content = _bytes_by_name(folder)
    assert set(content) == {"bundle.json", "golden.npz", "model-fp16.onnx", "model-fp32.onnx"}
    assert content["model-fp16.onnx"] == sources["model-fp16"].read_bytes()
    manifest = json.loads(content["bundle.json"])
    for artifact in manifest["artifacts"]:
        assert artifact["sha256"] == hashlib.sha256(content[artifact["path"]]).hexdigest()
        assert artifact["size_bytes"] == len(content[artifact["path"]])
    assert bundle.files == 3
    assert bundle.size_bytes == sum(len(data) for name, data in content.items() if name != "bundle.json")
    assert bundle.manifest.sha256 == hashlib.sha256(content["bundle.json"]).hexdigest()


def test_manifest_says_who_how_and_what_to_expect(packed, model):
    manifest = inspect(packed[0])["manifest"]
    assert manifest["targets"][0]["device"] == "jetson-agx-orin-64gb"
    assert manifest["build"]["model"] == "model-fp16.onnx"
    assert manifest["build"]["strongly_typed"] is True
    assert manifest["health"] == {
        "golden": "golden.npz", "metric": "max_abs_error", "tolerance": 0.05, "budget_ms": {"p99": 8.0, "p50": 0.5},
        "warmup": 20, "max_memory_mib": None,
    }  # fmt: skip
    assert manifest["provenance"]["parents"] == (model.digest,)
    assert packed[1].parents == (model.digest,)


def test_manifest_is_sorted_and_compact(packed):
    content = (packed[0] / "bundle.json").read_bytes()
    assert content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":")).encode()


def test_packing_again_elsewhere_and_later_gives_the_same_bytes(packed, tmp_path, sources, golden, plan):
    folder, bundle = packed
    moved = {role: Path(shutil.copy(path, tmp_path / f"moved-{role}.onnx")) for role, path in sources.items()}
    for path in moved.values():
        os.utime(path, (0, 0))
    reordered = dict(reversed(moved.items()))
    time.sleep(2.1)  # the time stamps of a zip archive have steps of two seconds
    again = pack(tmp_path / "other", name="digits-student", version=1, files=reordered, golden=golden, plan=plan)
    assert _bytes_by_name(tmp_path / "other") == _bytes_by_name(folder)
    assert again.digest == bundle.digest


def test_golden_survives_packing(packed, golden):
    read = read_golden(packed[0] / "golden.npz")
    assert (read.inputs == golden.inputs).all()
    assert (read.logits == golden.logits).all()


def test_packing_over_a_bundle_replaces_all_of_it(packed, sources, golden, plan):
    folder, old = packed
    new = pack(
        folder, name="digits-student", version=2, files={"model-fp16": sources["model-fp16"]}, golden=golden, plan=plan
    )
    assert set(_bytes_by_name(folder)) == {"bundle.json", "golden.npz", "model-fp16.onnx"}
    assert new.digest != old.digest
    assert verify(folder) == new
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_packing_into_an_empty_folder_is_allowed(tmp_path, sources, golden, plan):
    (tmp_path / "bundle").mkdir()
    pack(tmp_path / "bundle", name="a", version=1, files=sources, golden=golden, plan=plan)
    assert verify(tmp_path / "bundle").files == 3


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_packing_over_something_that_is_no_bundle_is_refused(tmp_path, sources, golden, plan, kind):
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    place = {"folder": home, "file": home / "thesis.tex", "link": tmp_path / "link"}[kind]
    if kind == "link":
        place.symlink_to(home)
    with pytest.raises(ConfigError, match="is not a bundle"):
        pack(place, name="a", version=1, files=sources, golden=golden, plan=plan)
    assert (home / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in home.iterdir()] == ["thesis.tex"]


def test_failed_packing_leaves_the_old_bundle_and_no_litter(packed, sources, golden, plan, monkeypatch):
    folder, old = packed
    real_copy, copied = shutil.copyfile, []

    def full(source, target):
        if copied:
            raise OSError(28, "No space left on device")
        copied.append(source)
        return real_copy(source, target)

    monkeypatch.setattr(bundle_module.shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        pack(folder, name="digits-student", version=2, files=sources, golden=golden, plan=plan)
    assert verify(folder) == old
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]


def test_copy_that_differs_from_its_listing_is_not_put_in_place(packed, sources, golden, plan, monkeypatch):
    folder, old = packed
    real = bundle_module.checked_bytes

    def corrupting(manifest):
        (staging,) = folder.parent.glob(".bundle.*")
        (staging / "model-fp16.onnx").write_bytes(bytes(4096))
        return real(manifest)

    monkeypatch.setattr(bundle_module, "checked_bytes", corrupting)
    with pytest.raises(BundleError, match=r"model-fp16\.onnx: sha256 is"):
        pack(folder, name="digits-student", version=2, files=sources, golden=golden, plan=plan)
    assert verify(folder) == old


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "not a name"}, "name 'not a name'"),
        ({"version": 0}, "version 0 is below 1"),
        ({"created": "now"}, "created 'now'"),
        ({"targets": ()}, "at least one"),
        ({"role": "Model"}, "role 'Model'"),
        ({"role": "../escape"}, "not a plain word"),
        ({"role": "golden"}, "taken by the bundle"),
        ({"role": "bundle"}, "taken by the bundle"),
        ({"tolerance": float("nan")}, "cannot be written as JSON"),
        ({"suffix": ".pkl"}, "may not be in a bundle"),
        ({"model": "model-int8.onnx"}, "no listed ONNX file"),
    ],
)
def test_wrong_argument_is_refused_before_anything_is_written(tmp_path, sources, golden, plan, change, words):
    arguments = {"name": change.get("name", "ok"), "version": change.get("version", 1)}
    if "role" in change:
        sources[change["role"]] = sources["model-fp32"]
    if "suffix" in change:
        sources["extra"] = sources["model-fp32"].rename(tmp_path / f"extra{change['suffix']}")
        del sources["model-fp32"]
    health = dataclasses.replace(plan.health, tolerance=change.get("tolerance", 0.1))
    build = dataclasses.replace(plan.build, model=change.get("model", plan.build.model))
    top = {key: change[key] for key in ("created", "targets") if key in change}
    changed = dataclasses.replace(plan, health=health, build=build, **top)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=words):
        pack(tmp_path / "bundle", **arguments, files=sources, golden=golden, plan=changed)
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_source_is_named(tmp_path, sources, golden, plan):
    sources["model-fp32"].unlink()
    with pytest.raises(StorageError, match=r"student\.fp32\.onnx: no such file, wanted as 'model-fp32'"):
        pack(tmp_path / "bundle", name="a", version=1, files=sources, golden=golden, plan=plan)


def test_unusable_golden_is_refused(tmp_path, sources, golden, plan):
    broken = dataclasses.replace(golden, logits=golden.logits[:2])
    with pytest.raises(DataError, match="4 inputs and 2 rows"):
        pack(tmp_path / "bundle", name="a", version=1, files=sources, golden=broken, plan=plan)


def test_verify_raises_with_every_problem_and_exit_code_6(packed):
    folder, _ = packed
    (folder / "golden.npz").unlink()
    (folder / "note.txt").touch()
    with pytest.raises(BundleError) as caught:
        verify(folder)
    assert caught.value.exit_code == 6
    assert "golden.npz: listed, but not there" in str(caught.value)
    assert "note.txt: not listed" in str(caught.value)


def test_inspect_tells_of_a_broken_bundle_and_refuses_an_unreadable_manifest(packed):
    folder, bundle = packed
    whole = inspect(folder)
    assert (whole["is_intact"], whole["problems"]) == (True, [])
    assert (whole["manifest_sha256"], whole["size_bytes"]) == (bundle.manifest.sha256, bundle.size_bytes)
    json.dumps(whole)
    (folder / "golden.npz").write_bytes(b"")
    assert [item["kind"] for item in inspect(folder)["problems"]] == ["size"]
    (folder / "bundle.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match="schema_version None is not known"):
        inspect(folder)


@pytest.mark.parametrize("function", [verify, inspect])
def test_absent_folder_is_a_usage_error(tmp_path, function):
    with pytest.raises(ConfigError, match="no such folder"):
        function(tmp_path / "absent")


def test_agent_on_the_device_accepts_what_was_packed(packed):
    root = Path(edgekd_agent.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from edgekd_agent.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, "verify", str(packed[0])], check=False)
    assert done.returncode == 0
    (packed[0] / "golden.npz").unlink()
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, "verify", str(packed[0])], check=False)
    assert done.returncode == 6


def test_ship_imports_neither_torch_nor_onnx():
    code = "import sys, edgekd.ship; print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
