"""A bundle made from another: release numbers, and what devices made for others of their kind."""

import dataclasses
import json

import edgekd_agent
import pytest
from edgekd_agent import parse_manifest
from edgekd_agent.engine.keys import engine_key, timing_key

from edgekd.core.errors import BundleError, ConfigError, StorageError
from edgekd.ship import DeviceFile, inspect, pack, read_facts, repack, verify

ORIN = {
    "machine": "aarch64", "model": "NVIDIA Jetson AGX Orin", "l4t": "36.4.3", "gpu": "Orin", "sm": 87,
    "cuda_driver": "12.6", "tensorrt": "10.3.0", "python": "3.10",
}  # fmt: skip


@pytest.fixture
def bundle(tmp_path, sources, golden, plan):
    folder = tmp_path / "bundle"
    pack(folder, name="digits-student", version=1, files=sources, golden=golden, plan=plan)
    return folder


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "built.plan"
    path.write_bytes(b"an engine")
    return path


def test_new_release_number_changes_nothing_else(bundle, tmp_path):
    repack(bundle, tmp_path / "second", version=2)
    old, new = inspect(bundle)["manifest"], inspect(tmp_path / "second")["manifest"]
    assert new == {**old, "version": 2}
    assert verify(bundle).files == verify(tmp_path / "second").files


def test_engine_lies_under_the_key_that_its_device_computes(bundle, engine, tmp_path):
    repack(bundle, tmp_path / "with", device_files=[DeviceFile("engine", engine, ORIN)])
    manifest = parse_manifest((tmp_path / "with" / "bundle.json").read_bytes())
    key = engine_key(manifest, ORIN)
    (artifact,) = [item for item in manifest.artifacts if item.path == f"engines/{key}/model.plan"]
    assert artifact.role == f"engine-{key[:16]}"
    assert (tmp_path / "with" / artifact.path).read_bytes() == b"an engine"


@pytest.mark.parametrize("fact", ["tensorrt", "gpu", "sm", "l4t", "model", "machine", "cuda_driver"])
def test_any_other_fact_is_another_key(bundle, engine, tmp_path, fact):
    repack(bundle, tmp_path / "with", device_files=[DeviceFile("engine", engine, ORIN)])
    manifest = parse_manifest((tmp_path / "with" / "bundle.json").read_bytes())
    other = {**ORIN, fact: 89 if fact == "sm" else "another"}
    assert f"engines/{engine_key(manifest, other)}/model.plan" not in {item.path for item in manifest.artifacts}


def test_timing_cache_serves_any_model_of_the_same_device(bundle, engine, tmp_path):
    cache = engine.rename(tmp_path / "timing.cache")
    repack(bundle, tmp_path / "with", device_files=[DeviceFile("timing", cache, ORIN)])
    manifest = parse_manifest((tmp_path / "with" / "bundle.json").read_bytes())
    assert f"timing/{timing_key(manifest, ORIN)}.cache" in {item.path for item in manifest.artifacts}


def test_engines_of_several_devices_lie_side_by_side_and_a_new_one_replaces_its_own(bundle, engine, tmp_path):
    other = {**ORIN, "tensorrt": "10.7.0"}
    both = [DeviceFile("engine", engine, ORIN), DeviceFile("engine", engine, other)]
    repack(bundle, tmp_path / "both", device_files=both)
    assert verify(tmp_path / "both").files == 5
    newer = tmp_path / "newer.plan"
    newer.write_bytes(b"another engine")
    repack(tmp_path / "both", tmp_path / "again", device_files=[DeviceFile("engine", newer, ORIN)])
    assert verify(tmp_path / "again").files == 5
    contents = {path.read_bytes() for path in (tmp_path / "again").glob("engines/*/model.plan")}
    assert contents == {b"an engine", b"another engine"}


def test_same_arguments_give_the_same_bytes(bundle, engine, tmp_path):
    for name in ("one", "two"):
        repack(bundle, tmp_path / name, version=3, device_files=[DeviceFile("engine", engine, ORIN)])
    assert inspect(tmp_path / "one")["manifest_sha256"] == inspect(tmp_path / "two")["manifest_sha256"]


def test_bundle_is_packed_again_in_its_own_place(bundle):
    repack(bundle, bundle, version=5)
    assert inspect(bundle)["manifest"]["version"] == 5


def test_broken_source_missing_engine_and_foreign_facts_are_refused(bundle, engine, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        repack(bundle, tmp_path / "x", device_files=[DeviceFile("engine", tmp_path / "absent", ORIN)])
    with pytest.raises(ConfigError, match="facts"):
        repack(bundle, tmp_path / "x", device_files=[DeviceFile("engine", engine, {"machine": "x86_64"})])
    with pytest.raises(ConfigError, match="version -1 is below 1"):
        repack(bundle, tmp_path / "x", version=-1)
    (bundle / "golden.npz").unlink()
    with pytest.raises(BundleError, match=r"golden\.npz"):
        repack(bundle, tmp_path / "x", version=2)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "path",
    ["engines/model.plan", "model.plan", "engines/" + "A" * 64 + "/model.plan", "engines/" + "a" * 64 + "/other.plan",
     "engines/" + "a" * 64 + "/model.onnx", "engines/" + "a" * 63 + "/model.plan"],
)  # fmt: skip
def test_engine_in_any_other_place_is_refused_by_every_reader(bundle, path):
    manifest = edgekd_agent.read_manifest(bundle / "bundle.json")
    media = edgekd_agent.media_type_of(path)
    artifact = dataclasses.replace(manifest.artifacts[0], path=path, role="engine-x", media_type=media)
    artifacts = tuple(sorted([*manifest.artifacts, artifact], key=lambda item: item.path))
    content = edgekd_agent.manifest_bytes(dataclasses.replace(manifest, artifacts=artifacts))
    with pytest.raises(edgekd_agent.ManifestError, match="engines/KEY/model.plan"):
        parse_manifest(content)


def test_facts_are_read_from_hello_or_alone(tmp_path):
    for document in (ORIN, {"agent": "0.1.0", "facts": ORIN}):
        (tmp_path / "facts.json").write_text(json.dumps(document))
        assert read_facts(tmp_path / "facts.json") == ORIN
    for content in ("", "[]", "{}", '{"facts": 3}'):
        (tmp_path / "facts.json").write_text(content)
        with pytest.raises(ConfigError, match="hello"):
            read_facts(tmp_path / "facts.json")
    with pytest.raises(ConfigError, match="hello"):
        read_facts(tmp_path / "absent.json")
