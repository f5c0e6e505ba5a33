"""What was signed for this device is believed and kept durably, and refusals leave no trace."""

import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import edgekd_agent
import pytest
from edgekd_agent import durable
from edgekd_agent.trust import Device, TrustError, desired_release, trusted_root_version
from tuf_repository import BOARD, BUILT, DEVICE, NOW, Repository, sample_bundle, sha256


def test_signed_release_is_told_with_its_manifest_and_its_end(device, repository):
    release = device.ask()
    assert (release.group, release.name, release.version) == ("canary", "digits-student", 3)
    assert release.bundle_bytes == sample_bundle()
    assert release.bundle_sha256 == sha256(sample_bundle())
    assert release.manifest.targets[0].sm == 87
    assert release.signed_until == repository.timestamp.expires
    assert trusted_root_version(device.trust) == 1


def test_end_is_that_of_the_first_signature_to_expire(device, repository):
    repository.groups["canary"].expires = NOW + timedelta(hours=3)
    device.push(repository.pour())
    assert device.ask().signed_until == NOW + timedelta(hours=3)


def test_asking_twice_changes_nothing(device):
    device.ask()
    before = device.state()
    device.ask()
    assert device.state() == before


def test_what_is_trusted_is_on_disk_and_nothing_else_is(device, repository):
    device.ask()
    files = repository.pour()
    trusted = {path: content for path, content in device.state().items() if content != "folder" and "trust" in path}
    clock = trusted.pop("trust/clock.json")
    assert b"2026-03-01T11:00:00Z" in clock
    assert trusted == {
        "trust/root.json": repository.roots[1],
        "trust/metadata/timestamp.json": files["timestamp.json"],
        "trust/metadata/snapshot.json": files["1.snapshot.json"],
        "trust/metadata/targets.json": files["1.targets.json"],
        "trust/metadata/canary.json": files["1.canary.json"],
    }


def test_what_is_kept_is_synced_before_its_name_and_the_folder_after(device, monkeypatch):
    calls = []
    for name in ("write_new", "rename", "fsync_folder"):
        real = getattr(durable, name)

        def noted(*arguments, _name=name, _real=real):
            calls.append((_name, Path(arguments[0]).name))
            return _real(*arguments)

        monkeypatch.setattr(durable, name, noted)
    device.ask()
    for file in ("timestamp.json", "snapshot.json", "targets.json", "canary.json", "clock.json"):
        at = calls.index(("write_new", f"{file}.new"))
        assert [name for name, _ in calls[at : at + 3]] == ["write_new", "rename", "fsync_folder"]


@pytest.mark.parametrize("failing", range(1, 6))
def test_disk_that_fails_at_any_file_leaves_a_device_that_goes_on_later(device, failing, monkeypatch):
    real, seen = durable.replace_file, []

    def full(path, content):
        seen.append(path)
        if len(seen) == failing:
            raise OSError(28, "No space left on device")
        real(path, content)

    monkeypatch.setattr(durable, "replace_file", full)
    with pytest.raises(OSError, match="No space left"):
        device.ask()
    monkeypatch.undo()
    assert device.ask().version == 3


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 600, None])
@pytest.mark.parametrize(
    "name",
    [
        "metadata/timestamp.json",
        "metadata/snapshot.json",
        "metadata/targets.json",
        "metadata/canary.json",
        "clock.json",
    ],
)
def test_damaged_memory_does_not_brick(device, name, damage):
    device.ask()
    path = device.trust / name
    path.unlink() if damage is None else path.write_bytes(damage)
    assert device.ask().version == 3


def test_scratch_of_a_killed_run_is_cleared(device):
    (device.trust / ".scratch" / "root_history").mkdir(parents=True)
    (device.trust / ".scratch" / "timestamp.json").write_bytes(b"half")
    assert device.ask().version == 3
    assert not (device.trust / ".scratch").exists()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[" * 9999, b'{"signed":{"_type":"root"},"signatures":[]}'])
def test_device_without_a_root_of_trust_says_so(device, content):
    path = device.trust / "root.json"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(TrustError) as caught:
        device.ask()
    assert caught.value.kind == ("missing" if content is None else "schema")
    with pytest.raises(TrustError):
        trusted_root_version(device.trust)


def test_root_of_trust_must_be_signed_by_its_own_keys(device, repository):
    (device.trust / "root.json").write_bytes(repository.signed(repository.root, repository.signers["root"][:1]))
    with pytest.raises(TrustError) as caught:
        device.ask()
    assert caught.value.kind == "signature"
    with pytest.raises(TrustError) as caught:
        trusted_root_version(device.trust)
    assert caught.value.kind == "signature"


@pytest.mark.parametrize("signers", [0, 1, 2])
def test_root_that_nobody_should_follow_does_not_count_though_it_lies_in_the_chain(device, repository, signers):
    repository.root.version = 2
    stranger = Repository(sample_bundle()).signers["root"]
    content = repository.signed(repository.root, [stranger[:2], repository.signers["root"][:1], []][signers])
    (device.trust / "root_history").mkdir()
    (device.trust / "root_history" / "2.root.json").write_bytes(content)
    assert trusted_root_version(device.trust) == 1


@pytest.mark.parametrize("version", [1, 3])
def test_root_in_the_place_of_another_version_does_not_count(device, repository, version):
    repository.root.version = version
    (device.trust / "root_history").mkdir()
    (device.trust / "root_history" / "2.root.json").write_bytes(repository.sign_root())
    assert trusted_root_version(device.trust) == 1


def test_damaged_root_in_the_chain_is_fetched_again(device, repository):
    repository.root.version = 2
    repository.sign_root()
    device.push(repository.pour())
    device.ask()
    assert trusted_root_version(device.trust) == 2
    (device.trust / "root_history" / "2.root.json").write_bytes(b"{}")
    assert trusted_root_version(device.trust) == 1
    device.ask()
    assert trusted_root_version(device.trust) == 2


def test_good_root_is_kept_though_the_rest_is_refused(device, repository):
    repository.root.version = 2
    stolen = repository.new_keys("timestamp")
    repository.sign_root()
    files = repository.pour()
    del files["timestamp.json"]
    device.push(files)
    with pytest.raises(TrustError):
        device.ask()
    repository.signers["timestamp"] = stolen
    device.push(repository.pour())
    with pytest.raises(TrustError) as caught:
        device.ask()
    assert caught.value.kind == "signature"


def test_fast_forward_is_recovered_from_by_replacing_the_online_keys(device, repository):
    device.ask()
    honest = repository.timestamp.version, repository.snapshot.version, repository.targets.version
    repository.timestamp.version = repository.snapshot.version = repository.targets.version = 2**31
    device.push(repository.pour())
    device.ask()
    repository.timestamp.version, repository.snapshot.version, repository.targets.version = (one + 1 for one in honest)
    device.push(repository.pour())
    with pytest.raises(TrustError) as caught:
        device.ask()
    assert caught.value.kind == "rollback"
    repository.root.version = 2
    repository.new_keys("timestamp")
    repository.new_keys("snapshot")
    repository.sign_root()
    device.push(repository.pour())
    assert device.ask().version == 3


def test_older_bundle_that_is_signed_anew_is_no_rollback(device, repository):
    device.ask()
    repository.release(sample_bundle(2))
    repository.bump()
    device.push(repository.pour())
    assert device.ask().version == 2


def test_device_may_move_to_another_group(device):
    device.ask()
    device.device = Device("robot-7", "fleet", {"device": BOARD})
    assert device.ask().group == "fleet"


def test_bundle_for_several_boards_is_for_each_of_them(device, repository):
    repository.want(
        "canary", sample_bundle(), selectors=[{"device": "other"}, {"device": BOARD, "device_id": "robot-7"}]
    )
    device.push(repository.pour())
    assert device.ask().version == 3


def test_every_file_is_needed_and_no_other_is_looked_at(device, repository):
    (device.staging / "unrelated.json").write_bytes(b"x")
    (device.staging / "1.lab.json").symlink_to("/etc/passwd")
    assert device.ask().version == 3


@pytest.mark.parametrize("now", [datetime(2026, 3, 1), datetime(2026, 3, 1, tzinfo=None)])
def test_time_without_zone_is_a_mistake_of_the_caller(device, now):
    with pytest.raises(ValueError, match="time zone"):
        desired_release(device.trust, device.staging, DEVICE, now=now, clock_floor=BUILT)


def _vendored(folder: Path) -> Path:
    """Copy tuf and securesystemslib, and nothing they could import."""
    for name in ("tuf", "securesystemslib"):
        source = Path(__import__(name).__file__).parent
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def _interpreters() -> list[str]:
    found = [path for minor in range(10, 15) if (path := shutil.which(f"python3.{minor}"))]
    works = [
        path
        for path in found
        if not subprocess.run([path, "-I", "-c", ""], capture_output=True, check=False).returncode
    ]
    return [sys.executable, *works]


@pytest.mark.parametrize("python", _interpreters())
def test_device_needs_neither_cryptography_nor_urllib3(device, tmp_path, python):
    paths = [str(_vendored(tmp_path / "vendored")), str(Path(edgekd_agent.__file__).parents[1])]
    code = f"""
import sys
sys.path[:0] = {paths!r}
from datetime import datetime, timezone
from pathlib import Path
from edgekd_agent.trust import Device, TrustError, desired_release
device = Device("robot-7", "canary", {{"device": {BOARD!r}}})
def ask():
    now = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    return desired_release(Path({str(device.trust)!r}), Path({str(device.staging)!r}), device, now=now, clock_floor=now)
print(ask().version)
stamp = Path({str(device.staging / "timestamp.json")!r})
stamp.write_bytes(stamp.read_bytes().replace(b'"version":1', b'"version":2'))
try:
    ask()
except TrustError as error:
    print(error.kind)
found = {{name.partition(".")[0] for name in sys.modules}}
print(sorted(found - set(sys.stdlib_module_names) - {{"__main__"}}))
"""
    done = subprocess.run([python, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["3", "signature", "['edgekd_agent', 'securesystemslib', 'tuf']"]


def test_old_urllib3_of_the_system_is_not_stumbled_over(device, tmp_path):
    """JetPack 6 has urllib3 1.26, which lacks what tuf's network client imports."""
    paths = [str(_vendored(tmp_path / "vendored")), str(Path(edgekd_agent.__file__).parents[1])]
    (tmp_path / "vendored" / "urllib3").mkdir()
    (tmp_path / "vendored" / "urllib3" / "__init__.py").write_text("__version__ = '1.26.5'\n")
    code = f"import sys; sys.path[:0] = {paths!r}; import edgekd_agent.trust.updating"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_agent_starts_without_importing_tuf():
    root = Path(edgekd_agent.__file__).parents[1]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import edgekd_agent.trust; print('tuf' in sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_refusal_names_the_file_and_the_reason(device, repository):
    repository.want("canary", sample_bundle(), selectors=[{"device": "jetson-orin-nx-16gb"}])
    device.push(repository.pour())
    with pytest.raises(TrustError, match="jetson-orin-nx-16gb.*this device is.*robot-7"):
        device.ask()
    os.unlink(device.staging / "timestamp.json")
    with pytest.raises(TrustError, match=r"timestamp\.json is not there"):
        device.ask()


def test_repository_of_another_fleet_is_refused_though_it_is_sound(device):
    device.push(Repository(sample_bundle()).pour())
    with pytest.raises(TrustError) as caught:
        device.ask()
    assert caught.value.kind == "signature"
