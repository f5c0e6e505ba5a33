"""The repository changes all at once, by one operator at a time, and only as its keys allow."""

import json
import os
import shutil
import signal
import threading
from datetime import timedelta

import pytest

from edgekd.core.errors import ConfigError, RunLocked, SignatureError, StorageError
from edgekd.ship.trust import init, outbox, publish, refresh, show, store

from .conftest import START


def _tree(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def published(field, bundle):
    publish(field.repo, field.keys, bundle, "canary", now=START)
    return field


def _killed_after(steps: int, action) -> bool:
    """Run an action in a process that is killed before its n-th change of a name; return whether it was."""
    child = os.fork()
    if child == 0:
        left = [steps]

        def killing(real):
            def call(*arguments, **named):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **named)

            return call

        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, killing(getattr(os, name)))
        action()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def test_process_killed_at_any_step_of_publishing_leaves_a_repository_that_goes_on(field, bundle, tmp_path):
    """The next operator finds the old state or the new one, and can publish."""
    states, repo = [], tmp_path / "copy"
    for steps in range(200):
        shutil.rmtree(repo, ignore_errors=True)
        shutil.copytree(field.repo, repo)
        if not _killed_after(steps, lambda: publish(repo, field.keys, bundle, "canary", now=START)):
            break
        version = {one.role: one.version for one in show(repo).roles}["timestamp"]
        states.append(version)
        assert publish(repo, field.keys, bundle, "canary", now=START).is_changed is (version == 1)
        assert outbox(repo, "canary", root_version=1).metadata
    assert len(states) > 20
    assert set(states) == {1, 2}
    assert states == sorted(states)


def test_second_operator_waits_and_both_changes_stand(field, bundle):
    threads = [
        threading.Thread(target=publish, args=(field.repo, field.keys, bundle, group), kwargs={"now": START})
        for group in ("canary", "fleet")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wants = {one.role: one.wants for one in show(field.repo).roles}
    assert wants["canary"][:2] == wants["fleet"][:2] == ("digits-student", 1)


def test_many_may_read_at_once(field):
    with store.reading(field.repo), store.reading(field.repo):
        assert show(field.repo).roles


def test_nobody_changes_what_is_being_read(field, monkeypatch):
    monkeypatch.setattr(store, "_LOCK_WAIT_S", 0.1)
    with store.reading(field.repo), pytest.raises(RunLocked):
        refresh(field.repo, field.keys, now=START)


def test_operator_who_takes_too_long_is_named_as_the_reason(field, monkeypatch):
    monkeypatch.setattr(store, "_LOCK_WAIT_S", 0.1)
    with store.locked(field.repo), pytest.raises(RunLocked, match="another operator"):
        show(field.repo)


@pytest.mark.parametrize(
    "name", ["timestamp.json", "2.snapshot.json", "2.targets.json", "2.canary.json", "1.fleet.json"]
)
def test_metadata_changed_by_another_hand_are_not_signed_again(published, name):
    path = published.repo / "metadata" / name
    document = json.loads(path.read_bytes())
    document["signed"]["expires"] = "2099-01-01T00:00:00Z"
    path.write_text(json.dumps(document))
    before = _tree(published.repo)
    for action in (show, lambda repo: refresh(repo, published.keys, now=START)):
        with pytest.raises(SignatureError):
            action(published.repo)
    assert _tree(published.repo) == before


def test_older_metadata_put_back_are_noticed(published):
    shutil.copyfile(published.repo / "metadata" / "1.targets.json", published.repo / "metadata" / "2.targets.json")
    with pytest.raises(SignatureError, match="targets is not the one that was signed last"):
        show(published.repo)


def test_whole_repository_put_in_the_place_of_ours_is_not_signed(published, tmp_path):
    init(tmp_path / "theirs", tmp_path / "their-keys", ["canary"], now=START)
    shutil.rmtree(published.repo)
    shutil.copytree(tmp_path / "theirs", published.repo)
    with pytest.raises(SignatureError, match="another root"):
        refresh(published.repo, published.keys, now=START)
    (published.keys / "root.json").unlink()
    with pytest.raises(ConfigError, match="copy the first root"):
        refresh(published.repo, published.keys, now=START)


def test_changed_target_files_are_noticed(published):
    for path in (published.repo / "targets").glob("*.bundle.json"):
        path.write_bytes(path.read_bytes().replace(b'"warmup":20', b'"warmup":21'))
    with pytest.raises(Exception, match="not what was released") as caught:
        outbox(published.repo, "canary", root_version=1)
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("name", ["timestamp.json", "1.root.json", "2.targets.json"])
def test_missing_metadata_are_named(published, name):
    (published.repo / "metadata" / name).unlink()
    with pytest.raises(StorageError, match=name):
        show(published.repo)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"signatures":[],"signed":{"_type":"snapshot"}}'])
def test_damaged_root_is_a_clear_error(published, content):
    (published.repo / "metadata" / "1.root.json").write_bytes(content)
    with pytest.raises(SignatureError):
        show(published.repo)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"schema_version":2,"lifetimes":{}}'])
def test_damaged_settings_are_a_clear_error(published, content):
    (published.repo / "repository.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"repository\.json"):
        refresh(published.repo, published.keys, now=START)


def test_folder_that_is_no_repository_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="keys init"):
        show(tmp_path)


def test_full_disk_changes_nothing(published, monkeypatch):
    before = _tree(published.repo)
    real, count = os.replace, []

    def full(*arguments, **named):
        count.append(arguments)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        return real(*arguments, **named)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        refresh(published.repo, published.keys, now=START + timedelta(days=1))
    monkeypatch.undo()
    assert _tree(published.repo) == before
    assert not list(published.repo.glob(".next*"))


def test_timestamp_is_put_in_place_last_for_those_who_read_without_a_lock(field, bundle, monkeypatch):
    real, placed = os.replace, []

    def noted(source, target, **named):
        placed.append(str(target))
        return real(source, target, **named)

    monkeypatch.setattr(os, "replace", noted)
    publish(field.repo, field.keys, bundle, "canary", now=START)
    assert placed[-1] == str(field.repo / "metadata" / "timestamp.json")
    assert len(placed) > 6


def test_same_times_and_keys_give_no_two_files_of_one_version(published):
    names = [path.name for path in (published.repo / "metadata").iterdir()]
    assert len(names) == len(set(names))
    before = _tree(published.repo)
    refresh(published.repo, published.keys, now=START + timedelta(days=1))
    after = _tree(published.repo)
    changed = [name for name in before if before[name] != after[name]]
    assert changed == ["metadata/timestamp.json"]
