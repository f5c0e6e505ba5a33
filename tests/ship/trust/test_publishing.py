"""What is published reaches the devices of its group, and publishing is repeatable and refuses confusion."""

import dataclasses
import json
import shutil
from datetime import timedelta

import pytest
from edgekd_agent.trust import Device, TrustError

from edgekd.core.errors import BundleError, ConfigError, PreconditionError
from edgekd.ship import pack
from edgekd.ship.trust import check_publish, check_withdraw, outbox, publish, show, want, withdraw

from .conftest import DEVICE, START

DAY = timedelta(days=1)


@pytest.fixture
def other_bundle(tmp_path, sources, golden, plan):
    folder = tmp_path / "other"
    changed = dataclasses.replace(plan, created="2026-02-01T12:00:00Z")
    pack(folder, name="digits-student", version=1, files=sources, golden=golden, plan=changed)
    return folder


def _files(field) -> dict[str, bytes]:
    return {str(path.relative_to(field.repo)): path.read_bytes() for path in field.repo.rglob("*") if path.is_file()}


def test_device_of_the_group_is_told_to_run_what_was_published(field, bundle):
    published = publish(field.repo, field.keys, bundle, "canary", now=START)
    field.push()
    release = field.release()
    assert (release.name, release.version) == ("digits-student", 1)
    assert release.bundle_sha256 == published.bundle_sha256
    assert release.bundle_bytes == (bundle / "bundle.json").read_bytes()
    assert release.signed_until == published.signed_until == START + timedelta(days=14)


def test_outbox_has_every_file_of_the_bundle_by_its_digest(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    box = outbox(field.repo, "canary", root_version=1)
    listed = {item["sha256"]: item["path"] for item in json.loads((bundle / "bundle.json").read_bytes())["artifacts"]}
    assert box.blobs.keys() == listed.keys()
    for sha256, path in box.blobs.items():
        assert path.read_bytes() == (bundle / listed[sha256]).read_bytes()


def test_other_groups_are_not_told(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    with pytest.raises(ConfigError, match="nothing is published for fleet"):
        outbox(field.repo, "fleet", root_version=1)
    field.push()
    field.device = Device("robot-7", "fleet", DEVICE.selector)
    with pytest.raises(TrustError) as caught:
        field.release()
    assert caught.value.kind == "missing"


def test_publishing_the_same_again_signs_nothing(field, bundle):
    first = publish(field.repo, field.keys, bundle, "canary", now=START)
    before = _files(field)
    second = publish(field.repo, field.keys, bundle, "canary", now=START + DAY)
    assert (first.is_changed, second.is_changed) == (True, False)
    assert _files(field) == before


def test_release_number_belongs_to_one_content(field, bundle, other_bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    before = _files(field)
    with pytest.raises(ConfigError, match="version 1 was released with other content"):
        publish(field.repo, field.keys, other_bundle, "canary", now=START)
    assert _files(field) == before
    published = publish(field.repo, field.keys, other_bundle, "canary", version=2, now=START)
    assert published.version == 2
    field.push()
    assert field.release().manifest.version == 2


def test_group_may_go_back_to_an_older_release(field, bundle, other_bundle):
    first = publish(field.repo, field.keys, bundle, "canary", now=START)
    publish(field.repo, field.keys, other_bundle, "canary", version=2, now=START)
    field.push()
    assert field.release().version == 2
    back = want(field.repo, field.keys, "canary", first.bundle_sha256, now=START + DAY)
    assert (back.version, back.is_changed) == (1, True)
    field.push()
    assert field.release(DAY).version == 1
    with pytest.raises(ConfigError, match="no bundle"):
        want(field.repo, field.keys, "canary", "0" * 64, now=START + DAY)


def test_selection_reaches_one_robot_only(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", select={"device_id": "robot-7"}, now=START)
    field.push()
    assert field.release().version == 1
    field.device = Device("robot-8", "canary", DEVICE.selector)
    with pytest.raises(TrustError) as caught:
        field.release()
    assert caught.value.kind == "wrong-device"


def test_unknown_group_lists_the_known_ones(field, bundle):
    with pytest.raises(ConfigError, match="canary"):
        publish(field.repo, field.keys, bundle, "canarry", now=START)
    with pytest.raises(ConfigError, match="unknown group"):
        outbox(field.repo, "lab", root_version=1)


def test_broken_bundle_is_not_published(field, bundle):
    (bundle / "golden.npz").write_bytes(b"")
    before = _files(field)
    with pytest.raises(BundleError, match=r"golden\.npz"):
        publish(field.repo, field.keys, bundle, "canary", now=START)
    assert _files(field) == before


@pytest.mark.parametrize("label", ["targets", "online", "canary"])
def test_missing_key_is_named_and_nothing_is_signed(field, bundle, label):
    (key,) = field.keys.glob(f"{label}.*.pem")
    key.unlink()
    with pytest.raises(PreconditionError, match=f"has no key of {key.name.split('.')[1]}"):
        publish(field.repo, field.keys, bundle, "canary", now=START)
    assert not list((field.repo / "metadata").glob("2.*"))


def test_clock_that_runs_behind_the_last_signature_signs_nothing(field, bundle):
    with pytest.raises(PreconditionError, match="clock"):
        publish(field.repo, field.keys, bundle, "canary", now=START - timedelta(minutes=1))


def test_dry_run_tells_the_same_and_writes_nothing(field, bundle):
    before = _files(field)
    plan = check_publish(field.repo, field.keys, bundle, "canary")
    assert plan.is_changed
    assert _files(field) == before
    published = publish(field.repo, field.keys, bundle, "canary", now=START)
    assert published.bundle_sha256 == plan.bundle_sha256
    assert not check_publish(field.repo, field.keys, bundle, "canary").is_changed


def test_statement_about_the_bundle_is_signed_beside_it(field, bundle):
    published = publish(field.repo, field.keys, bundle, "canary", now=START)
    (path,) = (field.repo / "targets").glob("*.statement.json")
    statement = json.loads(path.read_bytes())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    subjects = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert subjects.pop("bundle.json") == published.bundle_sha256
    assert subjects == {item["path"]: item["sha256"] for item in manifest["artifacts"]}
    assert statement["predicate"]["recipe"] == {"sha256": "ab" * 32}
    assert statement["predicate"]["data"] == {"sha256": "cd" * 32}
    assert statement["predicate"]["metrics"] == {"test_accuracy": 0.96}
    targets = json.loads((field.repo / "metadata" / "2.targets.json").read_bytes())["signed"]["targets"]
    entry = targets[f"statements/{published.bundle_sha256}/statement.json"]
    assert path.name == f"{entry['hashes']['sha256']}.statement.json"
    assert entry["length"] == path.stat().st_size


def test_withdrawn_bundle_is_refused_by_devices_and_its_files_are_dropped(
    field, bundle, tmp_path, sources, golden, plan
):
    first = publish(field.repo, field.keys, bundle, "canary", now=START)
    field.push()
    kept_files = {path.name: path.read_bytes() for path in field.staging.iterdir()}
    only = {"model-fp16": sources["model-fp16"]}
    pack(tmp_path / "small", name="digits-student", version=2, files=only, golden=golden, plan=plan)
    with pytest.raises(ConfigError, match="canary want this bundle"):
        withdraw(field.repo, field.keys, first.bundle_sha256, now=START)
    publish(field.repo, field.keys, tmp_path / "small", "canary", now=START)
    blobs = {path.name for path in (field.repo / "blobs").iterdir()}
    expected = check_withdraw(field.repo, first.bundle_sha256)
    dropped = withdraw(field.repo, field.keys, first.bundle_sha256, now=START + DAY)
    assert dropped == expected
    assert len(dropped) == 1
    assert {path.name for path in (field.repo / "blobs").iterdir()} == blobs - set(dropped)
    assert [release[1] for release in show(field.repo).releases] == [2]
    with pytest.raises(ConfigError, match="no bundle"):
        want(field.repo, field.keys, "canary", first.bundle_sha256, now=START + DAY)
    field.push()
    assert field.release(DAY).version == 2
    shutil.rmtree(field.staging)
    field.staging.mkdir()
    for name, content in kept_files.items():
        (field.staging / name).write_bytes(content)
    with pytest.raises(TrustError) as caught:
        field.release(DAY)
    assert caught.value.kind == "rollback"


def test_outbox_of_a_device_of_another_repository_is_refused(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    for version in (0, 2):
        with pytest.raises(ConfigError, match="not its repository"):
            outbox(field.repo, "canary", root_version=version)
