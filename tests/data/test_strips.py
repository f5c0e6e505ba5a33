import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.loading import load_dataset
from edgekd.data.strips import load_strips


def _webp(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", lossless=True, exact=True)
    return stream.getvalue()


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)


@pytest.fixture
def files(pictures: np.ndarray) -> dict[str, bytes]:
    def strip(start: int, stop: int) -> bytes:
        return _webp(np.concatenate(list(pictures[start:stop])))

    return {
        "train/000.webp": strip(0, 9),
        "train/001.webp": strip(9, 18),
        "train/002.webp": strip(18, 20),
        "test/000.webp": strip(20, 30),
        "train_labels.u8": bytes(row % 3 for row in range(20)),
        "test_labels.u8": bytes(row % 3 for row in range(10)),
        "classes.txt": b"a\nb\nc",
    }


def _zip(path: Path, files: dict[str, bytes]) -> DataConfig:
    with zipfile.ZipFile(path / "strips.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return DataConfig(name="cifar-strips", path=str(path / "strips.zip"))


def test_strips_hold_the_pictures_in_order(tmp_path: Path, files: dict[str, bytes], pictures: np.ndarray) -> None:
    source = load_strips(_zip(tmp_path, files))
    np.testing.assert_array_equal(source.train.inputs.gather(np.arange(20)), pictures[:20])
    np.testing.assert_array_equal(source.test.inputs.gather(np.arange(10)), pictures[20:])
    assert source.train.labels.tolist() == [row % 3 for row in range(20)]
    assert source.task.targets == ("a", "b", "c")


def test_strips_are_the_same_from_a_folder(tmp_path: Path, files: dict[str, bytes]) -> None:
    packed = load_dataset(_zip(tmp_path, files))
    for name, content in files.items():
        (tmp_path / "open" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "open" / name).write_bytes(content)
    opened = load_dataset(DataConfig(name="cifar-strips", path=str(tmp_path / "open")))
    assert opened.digest == packed.digest


@pytest.mark.parametrize("missing", ["train_labels.u8", "test/000.webp", "classes.txt"])
def test_strips_tell_what_is_absent(tmp_path: Path, files: dict[str, bytes], missing: str) -> None:
    del files[missing]
    with pytest.raises(PreconditionError, match=missing.replace("000.webp", ".*webp")):
        load_strips(_zip(tmp_path, files))


def test_strips_refuse_counts_that_differ(tmp_path: Path, files: dict[str, bytes]) -> None:
    del files["train/001.webp"]
    with pytest.raises(DataError, match="11 pictures but 20 labels"):
        load_strips(_zip(tmp_path, files))


def test_strips_refuse_a_label_outside_the_classes(tmp_path: Path, files: dict[str, bytes]) -> None:
    files["test_labels.u8"] = bytes([0, 1, 2, 3, 0, 0, 0, 0, 0, 0])
    with pytest.raises(DataError, match=r"test: label 3 of picture 3 is outside 0\.\.2"):
        load_strips(_zip(tmp_path, files))


def test_strips_refuse_a_damaged_picture_by_name(tmp_path: Path, files: dict[str, bytes]) -> None:
    files["train/001.webp"] = files["train/001.webp"][:100]
    with pytest.raises(DataError, match=r"train/001\.webp: not a readable WebP"):
        load_strips(_zip(tmp_path, files))


def test_strips_refuse_what_is_not_a_stack_of_squares(tmp_path: Path, files: dict[str, bytes]) -> None:
    files["train/001.webp"] = _webp(np.zeros((20, 8, 3), np.uint8))
    with pytest.raises(DataError, match="8 x 20 pixels is not a stack"):
        load_strips(_zip(tmp_path, files))


def test_strips_refuse_strips_of_two_sizes(tmp_path: Path, files: dict[str, bytes]) -> None:
    files["train/001.webp"] = _webp(np.zeros((16, 4, 3), np.uint8))
    with pytest.raises(DataError, match="4 and 8 pixels wide"):
        load_strips(_zip(tmp_path, files))


@pytest.mark.parametrize(("name", "classes", "train"), [("cifar10_small", 10, 4000), ("cifar100_small", 100, 3000)])
def test_strips_of_real_cifar_look_like_cifar(shared_data: Path, name: str, classes: int, train: int) -> None:
    path = shared_data / "images" / f"{name}.zip"
    dataset = load_dataset(DataConfig(name="cifar-strips", path=str(path)))
    assert (len(dataset.train) + len(dataset.val), len(dataset.test)) == (train, 1000)
    assert (len(dataset.task.targets), dataset.in_channels, dataset.resolution) == (classes, 3, 32)
    with zipfile.ZipFile(path) as archive:
        stored = np.bincount(np.frombuffer(archive.read("train_labels.u8"), np.uint8), minlength=classes)
    assert (np.bincount(np.concatenate([dataset.train.labels, dataset.val.labels])) == stored).all()
    np.testing.assert_allclose(dataset.mean, (0.49, 0.48, 0.445), atol=0.03)
    np.testing.assert_allclose(dataset.std, (0.25, 0.25, 0.265), atol=0.02)
    pixels = dataset.test.inputs.gather(np.arange(1000)).astype(float)
    neighbours = np.abs(np.diff(pixels, axis=2)).mean()
    strangers = np.abs(pixels - np.roll(pixels, 1, axis=0)).mean()
    assert neighbours < 0.35 * strangers


def test_strips_of_real_cifar10_agree_with_pillow(shared_data: Path) -> None:
    path = shared_data / "images" / "cifar10_small.zip"
    source = load_strips(DataConfig(name="cifar-strips", path=str(path)))
    assert source.task.targets[:3] == ("airplane", "automobile", "bird")
    with zipfile.ZipFile(path) as archive:
        strip = Image.open(io.BytesIO(archive.read("train/003.webp"))).convert("RGB")
    expected = np.asarray(strip.crop((0, 32 * 123, 32, 32 * 124)))
    np.testing.assert_array_equal(source.train.inputs.gather(np.array([3 * 500 + 123]))[0], expected)
