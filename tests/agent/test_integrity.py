"""A bundle folder is accepted only when it is exactly what its manifest says."""

import hashlib
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
from edgekd_agent import integrity, reader, verify

MEMBERS = ["golden.npz", "onnx/model-fp32.onnx"]
EMPTY = "timing/orin.cache"


def _found(folder: Path) -> set[tuple[str, str]]:
    return {(problem.path, problem.kind) for problem in verify(folder).problems}


def test_whole_bundle_is_intact(bundle):
    verification = verify(bundle)
    assert verification.is_intact
    assert verification.manifest is not None
    assert verification.manifest.name == "digits-student"
    assert verification.manifest_sha256 == hashlib.sha256((bundle / "bundle.json").read_bytes()).hexdigest()


def test_bundle_reached_through_a_link_is_intact(bundle, tmp_path):
    (tmp_path / "current").symlink_to(bundle)
    assert verify(tmp_path / "current").is_intact


@pytest.mark.parametrize("member", MEMBERS)
def test_every_flipped_bit_of_every_file_is_found(bundle, member):
    content = (bundle / member).read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (bundle / member).write_bytes(changed)
        assert _found(bundle) == {(member, "digest")}
    (bundle / member).write_bytes(content)
    assert verify(bundle).is_intact


def test_flipped_bits_all_over_the_manifest_are_found(bundle):
    original = verify(bundle)
    content = (bundle / "bundle.json").read_bytes()
    for bit in range(0, 8 * len(content), 7):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (bundle / "bundle.json").write_bytes(changed)
        found = verify(bundle)
        assert found.problems or found.manifest_sha256 != original.manifest_sha256


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"\0"])
def test_truncated_and_padded_files_are_found(bundle, member, change):
    (bundle / member).write_bytes(change((bundle / member).read_bytes()))
    assert _found(bundle) == {(member, "size")}


def test_size_is_compared_before_any_byte_is_read(bundle, monkeypatch):
    (bundle / "golden.npz").write_bytes(b"much longer than the manifest allows")
    opened = []
    real_open = os.open
    monkeypatch.setattr(reader.os, "open", lambda path, *rest: opened.append(str(path)) or real_open(path, *rest))
    assert _found(bundle) == {("golden.npz", "size")}
    assert not any(path.endswith("golden.npz") for path in opened)


def test_file_that_grows_after_the_survey_is_read_one_byte_past_its_size(bundle, monkeypatch):
    read_bytes = []

    class Endless:
        def read(self, size):
            read_bytes.append(size)
            return b"x" * size

    real = reader.open_regular
    monkeypatch.setattr(
        reader, "open_regular", lambda path: real(path) if path.name == "bundle.json" else nullcontext(Endless())
    )
    assert {kind for _, kind in _found(bundle)} == {"digest"}
    assert sorted(read_bytes) == sorted((bundle / member).stat().st_size + 1 for member in [*MEMBERS, EMPTY])


def test_swapped_files_are_found(bundle):
    first, second = bundle / "golden.npz", bundle / "onnx" / "model-fp32.onnx"
    first_bytes, second_bytes = first.read_bytes(), second.read_bytes()
    first.write_bytes(second_bytes)
    second.write_bytes(first_bytes)
    assert {path for path, _ in _found(bundle)} == {"golden.npz", "onnx/model-fp32.onnx"}


def test_missing_file_and_missing_folder_are_found(bundle):
    (bundle / "golden.npz").unlink()
    (bundle / "onnx" / "model-fp32.onnx").unlink()
    (bundle / "onnx").rmdir()
    assert _found(bundle) == {("golden.npz", "missing"), ("onnx/model-fp32.onnx", "missing")}


@pytest.mark.parametrize("name", ["extra.onnx", "onnx/extra.onnx", "timing/.hidden", "bundle.json.bak"])
def test_unlisted_file_is_found(bundle, name):
    (bundle / name).write_bytes(b"")
    assert _found(bundle) == {(name, "unlisted")}


def test_unlisted_folder_is_found_once_and_not_entered(bundle):
    deep = bundle / "deep"
    deep.mkdir()
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    assert _found(bundle) == {("deep", "unlisted")}


def test_listed_file_replaced_by_a_link_to_equal_bytes_is_refused(bundle, tmp_path):
    outside = tmp_path / "outside.npz"
    outside.write_bytes((bundle / "golden.npz").read_bytes())
    (bundle / "golden.npz").unlink()
    (bundle / "golden.npz").symlink_to(outside)
    assert _found(bundle) == {("golden.npz", "not-a-file")}


def test_folder_replaced_by_a_link_to_equal_content_is_refused(bundle, tmp_path):
    (bundle / "onnx").rename(tmp_path / "onnx")
    (bundle / "onnx").symlink_to(tmp_path / "onnx")
    assert _found(bundle) == {("onnx", "unlisted"), ("onnx/model-fp32.onnx", "missing")}


def test_pipe_in_place_of_a_file_is_refused_without_waiting(bundle):
    (bundle / "timing" / "orin.cache").unlink()
    os.mkfifo(bundle / "timing" / "orin.cache")
    assert _found(bundle) == {("timing/orin.cache", "not-a-file")}


def test_folder_in_place_of_a_file_is_refused(bundle):
    (bundle / "golden.npz").unlink()
    (bundle / "golden.npz").mkdir()
    assert _found(bundle) == {("golden.npz", "not-a-file")}


def test_manifest_that_is_a_link_is_refused(bundle, tmp_path):
    (bundle / "bundle.json").rename(tmp_path / "elsewhere.json")
    (bundle / "bundle.json").symlink_to(tmp_path / "elsewhere.json")
    verification = verify(bundle)
    assert verification.manifest is None
    assert verification.manifest_sha256 == ""
    assert not verification.is_intact


def test_flood_of_files_ends_the_survey(bundle):
    for index in range(1100):
        (bundle / f"f{index}").touch()
    problems = verify(bundle).problems
    assert any("looked no further" in problem.message for problem in problems)


def test_hostile_file_name_is_made_printable(bundle):
    Path(os.fsdecode(os.fsencode(bundle) + b"/\xff\x1b[2J")).touch()
    (problem,) = verify(bundle).problems
    assert problem.kind == "unlisted"
    assert problem.path.isprintable()
    problem.path.encode("ascii")


def test_unreadable_file_is_a_problem_not_an_exception(bundle, monkeypatch):
    real_open = os.open

    def refuse(path, *rest, **options):
        if str(path).endswith("golden.npz"):
            raise PermissionError(13, "Permission denied", str(path))
        return real_open(path, *rest, **options)

    monkeypatch.setattr(reader.os, "open", refuse)
    assert _found(bundle) == {("golden.npz", "unreadable")}


def test_unlistable_folder_is_a_problem_not_an_exception(bundle, monkeypatch):
    real_scandir = os.scandir

    def refuse(path):
        if Path(path).name == "onnx":
            raise PermissionError(13, "Permission denied", str(path))
        return real_scandir(path)

    monkeypatch.setattr(integrity.os, "scandir", refuse)
    assert "unreadable" in {kind for _, kind in _found(bundle)}
