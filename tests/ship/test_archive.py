"""A bundle as one tar: one form for one bundle, and nothing else is unpacked."""

import hashlib
import io
import tarfile

import edgekd_agent
import pytest
from edgekd_agent import ManifestError
from edgekd_agent.archive import unpack

from edgekd.core.errors import BundleError, ConfigError
from edgekd.ship import opened_bundle, pack, verify, write_archive


@pytest.fixture
def bundle(tmp_path, sources, golden, plan):
    folder = tmp_path / "bundle"
    pack(folder, name="digits-student", version=1, files=sources, golden=golden, plan=plan)
    return folder


@pytest.fixture
def archive(bundle, tmp_path):
    write_archive(bundle, tmp_path / "bundle.tar")
    return tmp_path / "bundle.tar"


def test_every_tar_program_can_read_it_and_finds_the_bundle(archive, bundle):
    with tarfile.open(archive, "r:") as members:
        assert members.getnames() == ["bundle.json", "golden.npz", "model-fp16.onnx", "model-fp32.onnx"]
        for member in members:
            assert (member.mtime, member.uid, member.gid, member.uname, member.mode) == (0, 0, 0, "", 0o644)
            assert members.extractfile(member).read() == (bundle / member.name).read_bytes()


def test_same_bundle_gives_the_same_bytes(archive, bundle, tmp_path):
    for path in bundle.iterdir():
        path.touch()
    again = write_archive(bundle, tmp_path / "again.tar")
    assert again.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()


def test_round_trip_gives_the_bundle_back(archive, bundle, tmp_path):
    (tmp_path / "out").mkdir()
    manifest = unpack(archive, tmp_path / "out")
    assert manifest.name == "digits-student"
    assert verify(tmp_path / "out").files == 3
    for path in bundle.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_broken_bundle_is_not_archived(bundle, tmp_path):
    (bundle / "golden.npz").write_bytes(b"")
    with pytest.raises(BundleError, match=r"golden\.npz"):
        write_archive(bundle, tmp_path / "bundle.tar")
    assert not (tmp_path / "bundle.tar").exists()


def test_archive_that_announces_more_than_it_has_stops_at_its_end(archive, tmp_path):
    """A header may claim gigabytes; only what the manifest names is written, and no more than there is."""
    content = bytearray(archive.read_bytes())
    offset = content.find(b"golden.npz", 512 * 4)
    claim = tarfile.TarInfo("golden.npz")
    claim.size, claim.mode = 7 << 30, 0o644
    content[offset : offset + 512] = claim.tobuf(tarfile.USTAR_FORMAT)
    archive.write_bytes(content)
    (tmp_path / "out").mkdir()
    with pytest.raises(ManifestError, match=r"golden\.npz: the archive is not exactly"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out" / "golden.npz").exists()


@pytest.mark.parametrize("name", ["bundle.json", "golden.npz"])
def test_nothing_can_hide_in_what_fills_a_block(archive, tmp_path, name):
    with tarfile.open(archive, "r:") as members:
        member = members.getmember(name)
    start = member.offset_data + member.size
    end = start + -member.size % 512
    assert start < end
    content = archive.read_bytes()
    for number, position in enumerate((start, end - 1)):
        archive.write_bytes(content[:position] + b"!" + content[position + 1 :])
        (tmp_path / f"out{number}").mkdir()
        with pytest.raises(ManifestError, match="not exactly"):
            unpack(archive, tmp_path / f"out{number}")


def test_manifest_beyond_all_bounds_is_not_read(tmp_path):
    member = tarfile.TarInfo("bundle.json")
    member.size, member.mode = 1 << 32, 0o644
    (tmp_path / "huge.tar").write_bytes(member.tobuf(tarfile.USTAR_FORMAT))
    with open(tmp_path / "huge.tar", "ab") as stream:
        stream.truncate(1 << 33)
    with pytest.raises(ManifestError, match="longer than"):
        unpack(tmp_path / "huge.tar", tmp_path)


@pytest.mark.parametrize("mode", ["w:gz", "w:xz", "w:bz2"])
def test_compressed_archive_is_refused_unopened(bundle, tmp_path, mode):
    with tarfile.open(tmp_path / "packed.tar", mode) as members:
        members.add(bundle / "bundle.json", "bundle.json")
    with pytest.raises(ManifestError, match="not the first member of a plain tar"):
        unpack(tmp_path / "packed.tar", tmp_path)


def test_link_to_an_archive_is_not_followed_on_the_device(archive, tmp_path):
    (tmp_path / "link.tar").symlink_to(archive)
    with pytest.raises(OSError, match="symbolic"):
        unpack(tmp_path / "link.tar", tmp_path)


def test_bundle_is_opened_from_folder_and_tar_alike(archive, bundle):
    for place in (bundle, archive):
        with opened_bundle(place) as folder:
            assert edgekd_agent.verify(folder).is_intact
    assert folder != bundle
    assert not folder.exists()


def test_opening_what_is_no_bundle_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="neither a folder nor a tar"), opened_bundle(tmp_path / "absent"):
        pass
    (tmp_path / "noise.tar").write_bytes(io.BytesIO(b"noise" * 1000).read())
    with pytest.raises(BundleError, match="not to be trusted"), opened_bundle(tmp_path / "noise.tar"):
        pass
