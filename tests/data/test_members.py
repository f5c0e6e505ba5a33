import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core.errors import DataError
from edgekd.data.members import ReadLimits, member_names, read_members

Pack = Callable[[Path, dict[str, bytes]], Path]


def _folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "f" / name).write_bytes(content)
    return path / "f"


def _zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path / "a.zip"


def _tar(path: Path, files: dict[str, bytes], suffix: str = "gz") -> Path:
    with tarfile.open(path / "a.tar", f"w:{suffix}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path / "a.tar"


def _tar_xz(path: Path, files: dict[str, bytes]) -> Path:
    return _tar(path, files, "xz")


@pytest.mark.parametrize("pack", [_folder, _zip, _tar, _tar_xz])
@pytest.mark.parametrize("wrapping", ["", "top/"])
def test_read_members_finds_the_same_files_everywhere(tmp_path: Path, pack: Pack, wrapping: str) -> None:
    files = {"train/b.bin": b"two", "train/a.bin": b"one", "other.txt": b"no", "names.txt": b"yes"}
    place = pack(tmp_path, {wrapping + name: content for name, content in files.items()})
    found = read_members(place, ["train/*.bin", "names.txt"])
    assert list(found.items()) == [("names.txt", b"yes"), ("train/a.bin", b"one"), ("train/b.bin", b"two")]
    assert any(name.endswith("other.txt") for name in member_names(place))


@pytest.mark.parametrize("pack", [_zip, _tar])
@pytest.mark.parametrize("name", ["../names.txt", "/names.txt", "a/../../names.txt", "..\\names.txt"])
def test_read_members_refuses_names_that_leave_the_archive(tmp_path: Path, pack: Pack, name: str) -> None:
    with pytest.raises(DataError, match="points outside the archive"):
        read_members(pack(tmp_path, {"fine.txt": b"", name: b"x"}), ["fine.txt"])
    assert not (tmp_path.parent / "names.txt").exists()


@pytest.mark.parametrize("pack", [_folder, _zip, _tar])
def test_read_members_refuses_oversized_members(tmp_path: Path, pack: Pack) -> None:
    place = pack(tmp_path, {"big.bin": b"\0" * 5000})
    with pytest.raises(DataError, match="5,000 bytes, at most 4,999"):
        read_members(place, ["big.bin"], ReadLimits(member_bytes=4999))
    assert read_members(place, ["big.bin"], ReadLimits(member_bytes=5000)) == {"big.bin": b"\0" * 5000}


@pytest.mark.parametrize("pack", [_folder, _zip, _tar])
def test_read_members_refuses_too_much_in_all(tmp_path: Path, pack: Pack) -> None:
    place = pack(tmp_path, {"1.bin": b"\0" * 600, "2.bin": b"\0" * 600})
    with pytest.raises(DataError, match="600 bytes, at most 400"):
        read_members(place, ["*.bin"], ReadLimits(total_bytes=1000))


def test_read_members_refuses_a_zip_member_that_holds_more_than_it_states(tmp_path: Path) -> None:
    place = _zip(tmp_path, {"bomb.bin": b"\0" * 100_000})
    raw = place.read_bytes()
    place.write_bytes(raw.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError):
        read_members(place, ["bomb.bin"])


def test_read_members_refuses_a_name_twice(tmp_path: Path) -> None:
    place = _tar(tmp_path, {"a/x.bin": b"1", "b/x.bin": b"2"})
    with pytest.raises(DataError, match=r"x\.bin is there more than once"):
        read_members(place, ["x.bin"])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_read_members_refuses_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("x.bin")
        info.type = kind
        info.linkname = "/etc/hostname"
        archive.addfile(info)
    with pytest.raises(DataError, match="link or a device"):
        read_members(tmp_path / "a.tar", ["x.bin"])


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_read_members_refuses_damaged_archives(tmp_path: Path, pack: Pack) -> None:
    place = pack(tmp_path, {"x.bin": bytes(range(256)) * 40})
    raw = bytearray(place.read_bytes())
    raw[60] ^= 0xFF
    raw[61] ^= 0xFF
    place.write_bytes(raw)
    with pytest.raises(DataError):
        read_members(place, ["x.bin"])


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut short"])
def test_read_members_refuses_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match="neither a folder nor a complete zip or tar|cannot be read"):
        read_members(tmp_path / "a", ["x.bin"])


def test_read_members_writes_nothing(tmp_path: Path) -> None:
    place = _zip(tmp_path, {"x.bin": b"1"})
    before = sorted(tmp_path.rglob("*"))
    read_members(place, ["x.bin"])
    assert sorted(tmp_path.rglob("*")) == before


def test_read_members_skips_folders_with_a_matching_name(tmp_path: Path) -> None:
    (tmp_path / "x.bin").mkdir()
    assert read_members(tmp_path, ["x.bin"]) == {}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.bin/", "")
    assert read_members(tmp_path / "a.zip", ["x.bin"]) == {}


def test_read_members_refuses_a_file_whose_length_is_not_what_was_stated(tmp_path: Path) -> None:
    (tmp_path / "x.bin").symlink_to("/proc/self/status")
    with pytest.raises(DataError, match=r"gives [\d,]+ bytes where 0 are stated"):
        read_members(tmp_path, ["x.bin"])
