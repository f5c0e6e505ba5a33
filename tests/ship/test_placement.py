"""A folder is replaced at once, whatever kills the process and whenever."""

import errno
import os
import sys
import threading

import pytest

from edgekd.core.errors import StorageError
from edgekd.ship import pack, placement, verify
from edgekd.ship.placement import replacing_folder

FILE_EVENTS = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.scandir", "os.listdir", "shutil.copyfile",
    "shutil.rmtree", "tempfile.mkdtemp", "tempfile.mkstemp", "ctypes.dlopen", "ctypes.dlsym", "fcntl.flock",
}  # fmt: skip


def _killed_at(event_number: int, work) -> bool:
    """Run `work` in a forked child that dies without clean-up at its n-th file operation; say whether it died."""
    child = os.fork()
    if child == 0:
        seen = 0

        def die(event, _):
            nonlocal seen
            if event in FILE_EVENTS:
                seen += 1
                if seen == event_number:
                    os._exit(9)

        sys.addaudithook(die)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.parametrize("can_exchange", [True, False])
def test_process_killed_at_any_file_operation_leaves_a_whole_bundle(
    tmp_path, sources, golden, plan, monkeypatch, can_exchange
):
    folder = tmp_path / "run" / "bundle"
    first = pack(folder, name="student", version=1, files=sources, golden=golden, plan=plan)
    if not can_exchange:
        monkeypatch.setattr(placement, "_exchange", lambda first, second: False)

    def pack_second():
        return pack(folder, name="student", version=2, files=sources, golden=golden, plan=plan)

    deaths, versions = 0, set()
    while _killed_at(deaths + 1, pack_second):
        deaths += 1
        if not folder.exists():
            assert not can_exchange
            (retired,) = folder.parent.glob(".bundle.*.bundle-old")
            assert verify(retired).digest == first.digest
        else:
            versions.add(verify(folder).digest)
        restored = pack(folder, name="student", version=1, files=sources, golden=golden, plan=plan)
        assert restored.digest == first.digest
        assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    assert deaths > 20
    assert first.digest in versions
    assert verify(folder).digest != first.digest


def test_folder_lost_between_two_renames_is_restored_before_new_work(tmp_path):
    target = tmp_path / "bundle"
    lost = tmp_path / ".bundle.abc.bundle-old"
    lost.mkdir()
    (lost / "kept").touch()
    with pytest.raises(RuntimeError, match="stop"), replacing_folder(target):
        raise RuntimeError("stop")
    assert [path.name for path in target.iterdir()] == ["kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "a") as staging:
        (staging / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_folder_is_readable_by_others(tmp_path):
    with replacing_folder(tmp_path / "a"):
        pass
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755


def test_second_writer_waits_for_the_first(tmp_path):
    order = []
    inside = threading.Event()

    def second():
        inside.wait(5)
        with replacing_folder(tmp_path / "a"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with replacing_folder(tmp_path / "a"):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_read_only_place_is_a_storage_error(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(placement.tempfile, "mkdtemp", refuse)
    with (
        pytest.raises(StorageError, match=r"cannot write .*a: Read-only file system"),
        replacing_folder(tmp_path / "a"),
    ):
        pytest.fail("the block must not run")


def test_exchange_swaps_two_folders(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"was-{name}").touch()
    if not placement._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two names")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["was-b"]
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["was-a"]


def test_exchange_reports_real_failures(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError):
        placement._exchange(tmp_path / "a", tmp_path / "absent")


class _OldLibc:
    """A C library without `renameat2`."""


class _OldKernel:
    """A kernel or file system that refuses the exchange."""

    @staticmethod
    def renameat2(*_):
        placement.ctypes.set_errno(errno.EINVAL)
        return -1


@pytest.mark.parametrize("library", [_OldLibc, _OldKernel])
def test_folder_is_replaced_where_no_exchange_is_offered(tmp_path, monkeypatch, library):
    monkeypatch.setattr(placement.ctypes, "CDLL", lambda *_, **__: library())
    for content in ("old", "new"):
        with replacing_folder(tmp_path / "a") as staging:
            (staging / "file").write_text(content)
    assert (tmp_path / "a" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
