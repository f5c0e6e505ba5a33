import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import CorruptInput, DataError
from edgekd.data import contents
from edgekd.data import pictures as module
from edgekd.data.contents import FileContents
from edgekd.data.pictures import Look, Pictures, check, decoded, stored_grey


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _decoded(path: Path, mode: str) -> Image.Image:
    return decoded(path.read_bytes(), path.name, Look(8, mode == "L"))


def _pictures(root: Path, names: list[str], resolution: int = 8, is_grey: bool = False, **look: bool) -> Pictures:
    return Pictures(FileContents(root, names), Look(resolution, is_grey, **look))


def test_decoded_keeps_the_pixels_of_a_lossless_file(tmp_path: Path) -> None:
    pixels = _random(9, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(_decoded(tmp_path / "a.png", "RGB")), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_decoded_converts_every_mode(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new("RGB", (4, 4), (255, 255, 255)).convert(mode).save(tmp_path / f"a.{suffix}")
    for wanted, channels in (("L", ()), ("RGB", (3,))):
        pixels = np.asarray(_decoded(tmp_path / f"a.{suffix}", wanted))
        assert pixels.shape == (4, 4, *channels)
        assert (pixels == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_decoded_scales_sixteen_bit_grey_instead_of_cutting_it_off(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 257, 400], [32768, 65000, 65534, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    pixels = np.asarray(_decoded(tmp_path / f"a.{suffix}", "L"))
    assert pixels.tolist() == [[round(int(value) * 255 / 65535) for value in row] for row in values]


def test_decoded_reads_sixteen_bit_pgm(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535\n" + bytes.fromhex("0101 ffff"))
    assert np.asarray(_decoded(tmp_path / "a.pgm", "L")).tolist() == [[1, 255]]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_decoded_refuses_thirty_two_bit_pixels(tmp_path: Path, dtype: type) -> None:
    Image.fromarray(np.full((3, 3), 70000, dtype)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="32-bit pixels"):
        _decoded(tmp_path / "a.tif", "L")


def test_decoded_turns_pictures_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = _random(4, 6, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(_decoded(tmp_path / "a.png", "RGB")), np.rot90(pixels, -1))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "gif", "bmp"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_file_images_name_a_file_cut_short(tmp_path: Path, suffix: str, share: float) -> None:
    stream = io.BytesIO()
    Image.fromarray(_random(40, 40, 3)).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    content = stream.getvalue()
    (tmp_path / f"bad.{suffix}").write_bytes(content[: int(len(content) * share)])
    images = _pictures(tmp_path, [f"bad.{suffix}"], 8, False)
    with pytest.raises(DataError, match=rf"bad\.{suffix}: cannot be read as a picture"):
        images.gather(np.array([0]))


def test_file_images_name_a_file_that_is_gone(tmp_path: Path) -> None:
    images = _pictures(tmp_path, ["gone.png"], 8, True)
    for read in (images.gather, images.fingerprint):
        with pytest.raises(DataError, match=r"gone\.png"):
            read(np.array([0]))


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_checked_content_names_what_is_no_picture(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png: cannot be read as a picture"):
        check((tmp_path / "bad.png").read_bytes(), "bad.png")


def test_checked_content_sees_a_wrong_checksum(tmp_path: Path) -> None:
    Image.fromarray(_random(20, 20, 3)).save(tmp_path / "bad.png")
    raw = bytearray((tmp_path / "bad.png").read_bytes())
    raw[len(raw) // 2] ^= 1
    (tmp_path / "bad.png").write_bytes(raw)
    with pytest.raises(DataError, match=r"bad\.png"):
        check((tmp_path / "bad.png").read_bytes(), "bad.png")


def test_decoded_refuses_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(_random(40, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    with pytest.raises(DataError, match=r"bomb\.png"):
        _decoded(tmp_path / "bomb.png", "L")


def test_file_images_crop_the_centre_and_keep_grey(tmp_path: Path) -> None:
    pixels = _random(8, 14)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = _pictures(tmp_path, ["a.png"], 8, True)
    assert images.shape == (1, 8, 8)
    np.testing.assert_array_equal(images.gather(np.array([0, 0])), np.stack([pixels[:, 3:11, None]] * 2))


def test_fingerprint_covers_names_content_resolution_and_colour(tmp_path: Path) -> None:
    pixels = _random(8, 8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.png")
    Image.fromarray(pixels.T).save(tmp_path / "c.png")

    def fingerprint(name: str, resolution: int = 8, is_grey: bool = True) -> str:
        return _pictures(tmp_path, [name], resolution, is_grey).fingerprint(np.array([0]))

    first = fingerprint("a.png")
    prints = {first, fingerprint("b.png"), fingerprint("c.png"), fingerprint("a.png", 9)}
    assert len(prints | {fingerprint("a.png", is_grey=False)}) == 5
    Image.fromarray(pixels.T).save(tmp_path / "a.png")
    assert fingerprint("a.png") != first


def test_stored_grey_needs_every_sampled_file_grey(tmp_path: Path) -> None:
    names = [f"{row:03d}.png" for row in range(130)]
    for name in names:
        Image.new("L", (2, 2)).save(tmp_path / name)
    assert stored_grey(FileContents(tmp_path, names)) == (True, 44)
    Image.new("RGB", (2, 2)).save(tmp_path / names[3])
    assert stored_grey(FileContents(tmp_path, names)) == (False, 44)


def test_stored_grey_names_a_file_that_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("text")
    with pytest.raises(DataError, match=r"bad\.png"):
        stored_grey(FileContents(tmp_path, ["bad.png"]))


def _smooth(width: int, height: int) -> Image.Image:
    coarse = Image.fromarray(_random(height // 20, width // 20, 3))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def test_fast_decoding_reads_a_large_jpeg_small_and_leaves_others_alone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _smooth(400, 240).save(tmp_path / "a.jpg", exif=exif, quality=95)
    _smooth(400, 240).save(tmp_path / "a.png")
    _smooth(30, 24).save(tmp_path / "small.jpg")
    names, rows = ["a.jpg", "a.png", "small.jpg"], np.arange(3)
    exact, fast = (_pictures(tmp_path, names, 20, is_fast=is_fast) for is_fast in (False, True))
    mine, theirs = exact.gather(rows), fast.gather(rows)
    assert (mine[1:] == theirs[1:]).all()
    difference = np.abs(mine[0].astype(int) - theirs[0])
    assert difference.max() > 0 and difference.mean() < 4
    content = (tmp_path / "a.jpg").read_bytes()
    assert decoded(content, "a.jpg", Look(20, False, is_fast=True)).size == (60, 100)
    assert decoded(content, "a.jpg", Look(20, False)).size == (240, 400)
    assert (fast.gather(rows) == theirs).all()
    assert fast.fingerprint(rows) != exact.fingerprint(rows)


def test_pictures_are_read_in_the_order_in_which_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{row}.png" for row in range(4)]
    for name in names:
        Image.fromarray(_random(8, 8, 3) // (1 + int(name[0]))).save(tmp_path / name)
    read: list[int] = []
    original = FileContents.read
    monkeypatch.setattr(FileContents, "read", lambda self, row: (read.append(row), original(self, row))[1])
    pixels = _pictures(tmp_path, names).gather(np.array([3, 0, 2, 0]))
    assert read == [0, 0, 2, 3]
    assert (pixels[1] == pixels[3]).all() and (pixels[0] == np.asarray(Image.open(tmp_path / "3.png"))).all()


def test_of_large_sets_the_fingerprint_reads_all_sizes_and_some_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{row}.bmp" for row in range(6)]
    for name in names:
        Image.fromarray(_random(8, 8, 3)).save(tmp_path / name)
    images, rows = _pictures(tmp_path, names), np.arange(6)
    whole = images.fingerprint(rows)
    monkeypatch.setattr(module, "_WHOLE_BYTES", 100)
    monkeypatch.setattr(module, "_SAMPLED_CONTENTS", 3)
    first = images.fingerprint(rows)
    assert first != whole
    raw = bytearray((tmp_path / "1.bmp").read_bytes())
    raw[-1] ^= 255
    (tmp_path / "1.bmp").write_bytes(raw)
    assert images.fingerprint(rows) == first, "rows 0, 2 and 4 are those that are read"
    (tmp_path / "2.bmp").write_bytes(raw)
    second = images.fingerprint(rows)
    Image.fromarray(_random(9, 8, 3)).save(tmp_path / "1.bmp")
    assert len({first, second, images.fingerprint(rows), images.fingerprint(rows[:5])}) == 4


def test_a_file_too_large_to_read_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(_random(8, 8, 3)).save(tmp_path / "a.bmp")
    monkeypatch.setattr(contents, "MAX_PICTURE_BYTES", 200)
    with pytest.raises(CorruptInput, match=r"a\.bmp: .*246 bytes, at most 200 are read"):
        _pictures(tmp_path, ["a.bmp"]).gather(np.array([0]))
