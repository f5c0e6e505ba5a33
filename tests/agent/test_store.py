"""Blobs: taken in only as they were signed."""

import hashlib

import pytest
from edgekd_agent import store
from edgekd_agent.bundle import Artifact
from edgekd_agent.errors import AgentError
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


def test_part_that_is_a_link_is_refused(layout, tmp_path) -> None:
    wanted = artifact()
    (tmp_path / "elsewhere").write_bytes(CONTENT)
    layout.part(wanted.sha256).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AgentError, match="has not arrived"):
        store.admit(layout, wanted)


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
