import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core.errors import DataError
from edgekd.data.shards import index as module
from edgekd.data.shards.index import ShardIndex, index_of, read_index

Write = Callable[..., None]
MEMBERS = {
    "a/0.jpg": b"first picture",
    "a/0.cls": b"2\n",
    "a/1.JPEG": b"second",
    "a/1.json": b'{"label": "cat", "id": 7}',
    "a/2.left.png": b"third",
    "a/2.txt": b"a caption",
    "a/3.webp": b"",
    "a/3.json": b'{"caption": "none"}',
    "a/4.cls": b"0",
}


def test_index_finds_every_picture_where_it_lies(tmp_path: Path, write_shard: Write) -> None:
    write_shard(tmp_path / "s.tar", MEMBERS)
    index = read_index(tmp_path / "s.tar")
    assert index.keys == ["a/0", "a/1", "a/2", "a/3"]
    assert index.suffixes == [".jpg", ".jpeg", ".png", ".webp"]
    assert index.labels == [2, "cat", None, None]
    raw = (tmp_path / "s.tar").read_bytes()
    spans = zip(index.offsets, index.sizes, strict=True)
    assert [raw[at : at + size] for at, size in spans] == [b"first picture", b"second", b"third", b""]
    assert (index.damage, index.ignored) == (None, 1)


def test_index_reads_long_names_and_labels_that_come_first(tmp_path: Path, write_shard: Write) -> None:
    name = "x" * 300
    write_shard(tmp_path / "s.tar", {f"{name}.cls": b"5", f"{name}.png": b"pixels", "dot.ted/k.png": b"p"})
    index = read_index(tmp_path / "s.tar")
    assert index.keys == [name, "dot.ted/k"]
    assert index.labels == [5, None]


def test_index_takes_links_and_devices_for_nothing(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.LNKTYPE), ("c.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("../../out.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"xyz"))
    index = read_index(tmp_path / "s.tar")
    assert (index.keys, index.ignored) == (["../../out"], 3)


@pytest.mark.parametrize(("cut", "kept"), [(700, 0), (1536 + 512 + 100, 1), (1536 + 3, 1), (1024 + 200, 1)])
def test_a_shard_cut_short_gives_the_samples_before_the_cut(
    tmp_path: Path, write_shard: Write, cut: int, kept: int
) -> None:
    write_shard(tmp_path / "s.tar", {f"{row}.png": bytes([row]) * 600 for row in range(3)})
    whole = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[:cut])
    index = read_index(tmp_path / "s.tar")
    assert len(index) == kept
    assert "cut short or damaged behind byte" in str(index.damage)


def test_a_header_that_is_overwritten_is_damage_and_no_end(tmp_path: Path, write_shard: Write) -> None:
    write_shard(tmp_path / "s.tar", {f"{row}.png": bytes([row]) * 500 for row in range(3)})
    raw = bytearray((tmp_path / "s.tar").read_bytes())
    raw[1024:1100] = b"\x55" * 76
    (tmp_path / "s.tar").write_bytes(raw)
    index = read_index(tmp_path / "s.tar")
    assert index.keys == ["0"]
    assert index.damage is not None


def test_a_shard_without_its_end_mark_is_whole(tmp_path: Path, write_shard: Write) -> None:
    write_shard(tmp_path / "s.tar", {"0.png": b"x" * 512})
    raw = (tmp_path / "s.tar").read_bytes()
    (tmp_path / "s.tar").write_bytes(raw[:1024])
    index = read_index(tmp_path / "s.tar")
    assert (index.keys, index.damage) == (["0"], None)


@pytest.mark.parametrize(("mode", "advice"), [("w:gz", "gunzip it"), ("w:bz2", "bunzip2 it"), ("w:xz", "unxz it")])
def test_compressed_shards_are_refused_with_what_to_do(tmp_path: Path, mode: str, advice: str) -> None:
    with tarfile.open(tmp_path / "s.tar", mode) as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(DataError, match=f"s.tar: is compressed.*{advice}"):
        read_index(tmp_path / "s.tar")


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100])
def test_what_is_no_tar_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"s\.tar: is no tar archive"):
        read_index(tmp_path / "s.tar")
    with pytest.raises(DataError, match=r"absent\.tar: cannot be read: No such file"):
        index_of(tmp_path / "absent.tar")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.json", b"{", "cannot be read as a label"),
        ("0.json", b"[" * 5000, "cannot be read as a label"),
        ("0.json", b'{"label": [1, 2]}', r"label \[1, 2\] is neither"),
        ("0.json", b'{"label": true}', "label True is neither"),
        ("0.cls", b"\xff\xfe", "cannot be read as a label"),
        ("0.cls", b"1" * 2000, "2,000 bytes, a label has at most 1,024"),
    ],
)
def test_labels_that_are_none_are_named(
    tmp_path: Path, write_shard: Write, name: str, content: bytes, message: str
) -> None:
    write_shard(tmp_path / "s.tar", {"0.png": b"x", name: content})
    with pytest.raises(DataError, match=rf"s\.tar: {name}: {message}"):
        read_index(tmp_path / "s.tar")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the shards whose headers are read."""
    read: list[Path] = []
    original = module.read_index

    def counting(path: Path) -> ShardIndex:
        read.append(path)
        return original(path)

    monkeypatch.setattr(module, "read_index", counting)
    return read


def test_an_index_is_kept_beside_the_shard_until_the_shard_changes(
    tmp_path: Path, write_shard: Write, counted: list[Path]
) -> None:
    shard = tmp_path / "s.tar"
    write_shard(shard, MEMBERS)
    first = index_of(shard)
    assert index_of(shard) == first
    assert len(counted) == 1
    os.utime(shard, ns=(1, 1))
    index_of(shard)
    assert len(counted) == 2
    stamp = shard.stat().st_mtime_ns
    write_shard(shard, {**MEMBERS, "a/0.jpg": b"other pixels!"})
    os.utime(shard, ns=(stamp, stamp))
    assert index_of(shard).keys == first.keys
    assert len(counted) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "{",
        lambda text: text.replace('"schema_version":1', '"schema_version":2'),
        lambda text: text.replace('"offsets":[512', '"offsets":[-512'),
        lambda text: text.replace('"sizes":[13', '"sizes":[999999999'),
        lambda text: text.replace('"sizes":[13', '"sizes":["13"'),
        lambda text: text.replace('"labels":[2,', '"labels":['),
        lambda text: text.replace('"keys":["a/0"', '"keys":[1'),
        lambda text: "[]",
    ],
)
def test_a_kept_index_that_is_not_sound_is_made_again(
    tmp_path: Path, write_shard: Write, counted: list[Path], damage: Callable[[str], str]
) -> None:
    write_shard(tmp_path / "s.tar", MEMBERS)
    sound = index_of(tmp_path / "s.tar")
    place = tmp_path / ".s.tar.index.json"
    text = place.read_text()
    assert damage(text) != text
    place.write_text(damage(text))
    assert index_of(tmp_path / "s.tar") == sound
    assert len(counted) == 2
    assert json.loads(place.read_text())["index"]["keys"] == sound.keys


def test_an_index_goes_to_the_users_folder_where_shards_cannot_be_written(
    tmp_path: Path, write_shard: Write, counted: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_CACHE", str(tmp_path / "cache"))
    write_shard(tmp_path / "s.tar", MEMBERS)
    (tmp_path / ".s.tar.index.json").mkdir()  # Nothing can be put in its place, not even by root.
    assert index_of(tmp_path / "s.tar") == index_of(tmp_path / "s.tar")
    assert len(counted) == 1
    assert len(list((tmp_path / "cache" / "shards").iterdir())) == 1
