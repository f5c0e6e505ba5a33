"""Blobs: taken in only as they were signed."""

import errno
import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from edgekd_agent import durable, staging, store
from edgekd_agent.bundle import Artifact
from edgekd_agent.errors import AgentError
from edgekd_agent.install import undo
from edgekd_agent.layout import Layout, checked_digest

CONTENT = b"0123456789" * 100


def artifact(content: bytes = CONTENT, path: str = "model.onnx") -> Artifact:
    return Artifact(path, "model", "application/x-onnx", len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def layout(tmp_path) -> Layout:
    layout = Layout(tmp_path)
    layout.parts.mkdir(parents=True)
    return layout


def put(layout: Layout, content: bytes, wanted: Artifact) -> None:
    layout.part(wanted.sha256).write_bytes(content)


def test_whole_part_becomes_a_blob_that_nobody_writes_to(layout) -> None:
    wanted = artifact()
    put(layout, CONTENT, wanted)
    store.admit(layout, wanted)
    blob = layout.blob(wanted.sha256)
    assert blob.read_bytes() == CONTENT
    assert blob.stat().st_mode & 0o777 == 0o444
    assert not layout.part(wanted.sha256).exists()
    assert store.require_intact(layout, wanted) == blob
    store.admit(layout, wanted)


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"x"])
def test_part_of_other_bytes_is_dropped(layout, content) -> None:
    wanted = artifact()
    put(layout, content, wanted)
    with pytest.raises(AgentError, match="not what was signed") as caught:
        store.admit(layout, wanted)
    assert caught.value.kind == "damaged"
    assert not layout.part(wanted.sha256).exists() and not layout.blob(wanted.sha256).exists()


def test_part_that_is_short_is_kept_to_be_continued(layout) -> None:
    wanted = artifact()
    put(layout, CONTENT[:500], wanted)
    with pytest.raises(AgentError, match="500 of 1000 bytes"):
        store.admit(layout, wanted)
    assert layout.part(wanted.sha256).read_bytes() == CONTENT[:500]


def as_link(part, elsewhere):
    part.symlink_to(elsewhere)


def as_dangling_link(part, elsewhere):
    part.symlink_to("/nonexistent")


def as_hard_link(part, elsewhere):
    os.link(elsewhere, part)


def as_pipe(part, elsewhere):
    os.mkfifo(part)


def as_socket(part, elsewhere):
    short = Path(tempfile.mkdtemp()) / "s"
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(short))
    shutil.move(short, part)
    short.parent.rmdir()


def as_folder(part, elsewhere):
    part.mkdir()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (as_link, "is a link"),
        (as_dangling_link, "is a link"),
        (as_hard_link, "is a hard link"),
        (as_pipe, "pipe"),
        (as_socket, "device"),
        (as_folder, "folder"),
    ],
)
def test_part_that_is_no_plain_file_is_refused_without_waiting_and_dropped(layout, tmp_path, place, words) -> None:
    wanted, elsewhere = artifact(), tmp_path / "elsewhere"
    elsewhere.write_bytes(CONTENT)
    place(layout.part(wanted.sha256), elsewhere)
    assert store.missing(layout, [wanted])[0].blocks == ()
    with pytest.raises(AgentError, match=words) as caught:
        store.admit(layout, wanted)
    assert caught.value.kind == "damaged"
    assert "it was dropped, push it again" in caught.value.message
    assert not os.path.lexists(layout.part(wanted.sha256)) and not layout.blob(wanted.sha256).exists()
    assert elsewhere.read_bytes() == CONTENT


def test_part_that_is_a_full_folder_is_named_and_never_walked_into(layout) -> None:
    wanted = artifact()
    inside = layout.part(wanted.sha256) / "kept"
    inside.parent.mkdir()
    inside.touch()
    with pytest.raises(AgentError, match=r"remove .*\.part as root"):
        store.admit(layout, wanted)
    assert inside.exists()


def test_part_that_never_came_is_missing(layout) -> None:
    with pytest.raises(AgentError, match="has not arrived") as caught:
        store.admit(layout, artifact())
    assert caught.value.kind == "missing"


def test_huge_sparse_part_is_refused_before_a_byte_is_copied(layout, monkeypatch) -> None:
    wanted = artifact()
    with open(layout.part(wanted.sha256), "wb") as part:
        part.truncate(1 << 40)
    monkeypatch.setattr(durable, "copy", None)
    assert store.missing(layout, [wanted])[0].blocks == ()
    with pytest.raises(AgentError, match="not what was signed"):
        store.admit(layout, wanted)
    assert not layout.part(wanted.sha256).exists()


def test_sparse_part_counts_only_what_it_takes_on_the_disk(layout) -> None:
    part = layout.part("0" * 64)
    with open(part, "wb") as stream:
        stream.truncate(1 << 40)
    assert staging.allocated_bytes(part) < 1 << 20
    part.write_bytes(CONTENT)
    assert staging.allocated_bytes(part) == len(CONTENT)
    assert staging.allocated_bytes(part.with_name("absent")) == 0


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("change", [CONTENT[:400], CONTENT + b"more", CONTENT[:999] + b"x"])
def test_part_that_changes_while_it_is_copied_is_judged_by_the_copy(layout, monkeypatch, change, kernel) -> None:
    wanted, real = artifact(), durable.copy
    part = layout.part(wanted.sha256)
    part.write_bytes(CONTENT)
    if not kernel:
        monkeypatch.setattr(os, "copy_file_range", refusing(errno.EXDEV))

    def copy(source, descriptor, most_bytes):
        count = real(source, descriptor, min(most_bytes, 500))
        part.write_bytes(change)
        return count

    monkeypatch.setattr(durable, "copy", copy)
    if change.startswith(CONTENT):  # what was announced is still there; the rest is nobody's
        store.admit(layout, wanted)
        assert layout.blob(wanted.sha256).read_bytes() == CONTENT
        return
    with pytest.raises(AgentError, match="not what was signed"):
        store.admit(layout, wanted)
    assert list(layout.blobs.rglob("*/*")) == []


def refusing(code):
    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return refuse


def test_blob_is_a_copy_that_its_pusher_cannot_reach(layout) -> None:
    wanted = artifact()
    put(layout, CONTENT, wanted)
    with open(layout.part(wanted.sha256), "r+b") as held:
        store.admit(layout, wanted)
        held.write(b"changed!")
    assert store.require_intact(layout, wanted).read_bytes() == CONTENT


def test_full_disk_leaves_no_half_of_a_copy(layout, monkeypatch) -> None:
    wanted = artifact()
    put(layout, CONTENT, wanted)
    monkeypatch.setattr(os, "copy_file_range", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        store.admit(layout, wanted)
    assert list(layout.blobs.rglob("*/*")) == []
    assert layout.part(wanted.sha256).read_bytes() == CONTENT


def test_sweep_takes_strange_things_and_leaves_what_is_awaited(layout, tmp_path) -> None:
    layout.metadata.mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    for number in range(130):
        path = layout.metadata / f"{number}.json"
        path.touch()
        os.utime(path, (number, number))
    (layout.metadata / "dangling").symlink_to("/nonexistent")
    full = layout.parts / "full.part"
    full.mkdir()
    (full / "inside").touch()
    (layout.parts / "link").symlink_to(tmp_path / "target")
    for path in (full, layout.parts / "link"):
        os.utime(path, (0, 0), follow_symlinks=False)
    put(layout, CONTENT, awaited := artifact())
    held = artifact(CONTENT + b"2")
    put(layout, CONTENT + b"2", held)
    store.admit(layout, held)
    put(layout, CONTENT + b"2", held)
    staging.sweep(layout)
    assert {path.name for path in layout.parts.iterdir()} == {"full.part", layout.part(awaited.sha256).name}
    assert {path.name for path in layout.metadata.iterdir()} == {"dangling"} | {f"{n}.json" for n in range(3, 130)}
    assert (tmp_path / "target" / "file").exists()


def test_sweep_is_bounded(layout, monkeypatch) -> None:
    monkeypatch.setattr(staging, "_MOST_ENTRIES", 5)
    for number in range(20):
        (layout.parts / str(number)).touch()
        os.utime(layout.parts / str(number), (0, 0))
    staging.sweep(layout)
    assert len(list(layout.parts.iterdir())) == 15


def test_missing_names_complete_blocks_only(layout, monkeypatch) -> None:
    monkeypatch.setattr(store, "BLOCK_BYTES", 400)
    wanted = artifact()
    assert store.missing(layout, [wanted, artifact(path="again.onnx")]) == (
        store.Missing(wanted.sha256, len(CONTENT), ()),
    )
    put(layout, CONTENT[:900], wanted)
    (found,) = store.missing(layout, [wanted])
    assert found.blocks == tuple(hashlib.sha256(CONTENT[i : i + 400]).hexdigest() for i in (0, 400))
    put(layout, CONTENT + b"too long", wanted)
    assert store.missing(layout, [wanted])[0].blocks == ()


def test_blob_that_changed_on_the_disk_is_dropped(layout) -> None:
    wanted = artifact()
    put(layout, CONTENT, wanted)
    store.admit(layout, wanted)
    blob = layout.blob(wanted.sha256)
    blob.chmod(0o644)
    blob.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(AgentError, match="has changed on this disk"):
        store.require_intact(layout, wanted)
    assert store.missing(layout, [wanted])


@pytest.mark.parametrize("text", ["", "../" + "a" * 61, "A" * 64, "a" * 63, "a" * 64 + "\n"])
def test_only_digests_become_part_of_a_path(text) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        checked_digest(text)


def test_staging_on_a_disk_of_its_own_is_noticed(layout, tmp_path) -> None:
    assert not staging.is_elsewhere(layout)
    layout.parts.rmdir()
    assert not staging.is_elsewhere(layout)
    layout.parts.symlink_to("/proc")
    assert staging.is_elsewhere(layout)


def test_half_of_a_copy_that_a_kill_left_is_cleared_away(layout) -> None:
    wanted = artifact()
    half = layout.blob(wanted.sha256).with_name(wanted.sha256 + durable.NEW)
    half.parent.mkdir(parents=True)
    half.write_bytes(CONTENT[:10])
    undo.clear_left_overs(layout)
    assert not half.exists()
    half.write_bytes(CONTENT[:10])
    put(layout, CONTENT, wanted)
    store.admit(layout, wanted)
    assert layout.blob(wanted.sha256).read_bytes() == CONTENT and not half.exists()
