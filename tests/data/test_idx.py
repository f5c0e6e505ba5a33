import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.idx import DEBIAN_FASHION_MNIST, load_idx, read_idx
from edgekd.data.loading import load_dataset

IMAGES = "train-images-idx3-ubyte"
LABELS = "train-labels-idx1-ubyte"


def _load(folder: Path):
    return load_dataset(DataConfig(name="mnist", path=str(folder)))


def test_read_idx_reads_hand_written_bytes(tmp_path: Path) -> None:
    path = tmp_path / "two"
    path.write_bytes(bytes.fromhex("00000803 00000002 00000001 00000003") + bytes([1, 2, 3, 250, 251, 252]))
    assert read_idx(path, 3).tolist() == [[[1, 2, 3]], [[250, 251, 252]]]


def test_idx_parts_hold_the_pictures_and_labels_of_the_files(idx_folder: Path) -> None:
    source = load_idx(DataConfig(name="mnist", path=str(idx_folder)))
    rows = np.arange(40)
    expected = np.frombuffer((idx_folder / IMAGES).read_bytes()[16:], np.uint8).reshape(40, 6, 6, 1)
    np.testing.assert_array_equal(source.train.inputs.gather(rows), expected)
    assert source.train.labels.tolist() == [row % 10 for row in range(40)]
    assert len(source.test.labels) == 20


def test_idx_files_may_be_gzipped_and_dotted(idx_folder: Path) -> None:
    plain = _load(idx_folder)
    for path in list(idx_folder.iterdir()):
        (idx_folder / (path.name.replace("-idx", ".idx") + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    packed = _load(idx_folder)
    assert packed.digest == plain.digest
    assert (packed.in_channels, packed.resolution, len(packed.task.targets)) == (1, 6, 10)


def test_idx_names_its_classes_after_the_training_labels(idx_folder: Path) -> None:
    assert load_dataset(DataConfig(name="idx", path=str(idx_folder))).task.targets == tuple("0123456789")


@pytest.mark.parametrize("cut", [3, 10, 16, 100, 1455])
def test_idx_refuses_a_truncated_file(idx_folder: Path, cut: int) -> None:
    content = (idx_folder / IMAGES).read_bytes()
    (idx_folder / IMAGES).write_bytes(content[:cut])
    with pytest.raises(DataError, match=IMAGES):
        _load(idx_folder)


def test_idx_states_both_lengths_when_truncated(idx_folder: Path) -> None:
    (idx_folder / IMAGES).write_bytes((idx_folder / IMAGES).read_bytes()[:-1])
    with pytest.raises(DataError, match=r"\[40, 6, 6\] = 1,440 bytes, but 1,439 follow"):
        _load(idx_folder)


def test_idx_refuses_trailing_bytes(idx_folder: Path) -> None:
    with open(idx_folder / LABELS, "ab") as stream:
        stream.write(b"\0")
    with pytest.raises(DataError, match="more than 40 follow"):
        _load(idx_folder)


def test_idx_refuses_a_truncated_or_altered_gzip(idx_folder: Path) -> None:
    packed = gzip.compress((idx_folder / IMAGES).read_bytes())
    (idx_folder / IMAGES).unlink()
    path = idx_folder / (IMAGES + ".gz")
    for damaged in (packed[:-20], packed[:-8] + b"\0\0\0\0" + packed[-4:], b"not gzip"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            _load(idx_folder)


@pytest.mark.parametrize("magic", ["00000801", "00000d03", "00010803", "89504e47"])
def test_idx_refuses_another_magic_and_shows_it(idx_folder: Path, magic: str) -> None:
    (idx_folder / IMAGES).write_bytes(bytes.fromhex(magic) + (idx_folder / IMAGES).read_bytes()[4:])
    with pytest.raises(DataError, match=f"starts with {magic}.*00000803"):
        _load(idx_folder)


def test_idx_refuses_a_header_that_claims_more_than_memory_holds(idx_folder: Path) -> None:
    (idx_folder / IMAGES).write_bytes(bytes.fromhex("00000803") + b"\xff" * 12)
    with pytest.raises(DataError, match="more than 4,294,967,296 bytes"):
        _load(idx_folder)


def test_idx_refuses_counts_that_differ(idx_folder: Path, idx_bytes: Callable[[np.ndarray], bytes]) -> None:
    (idx_folder / LABELS).write_bytes(idx_bytes(np.zeros(39, np.uint8)))
    with pytest.raises(DataError, match="40 pictures but 39 labels"):
        _load(idx_folder)


def test_idx_refuses_a_label_outside_the_classes(idx_folder: Path, idx_bytes: Callable[[np.ndarray], bytes]) -> None:
    labels = np.arange(20, dtype=np.uint8) % 10
    labels[13] = 10
    (idx_folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(DataError, match=r"t10k.*label 10 of picture 13 is outside 0\.\.9"):
        _load(idx_folder)


@pytest.mark.parametrize("shape", [(0, 6, 6), (40, 0, 6)])
def test_idx_refuses_files_without_pictures(
    idx_folder: Path, idx_bytes: Callable[[np.ndarray], bytes], shape: tuple[int, int, int]
) -> None:
    (idx_folder / IMAGES).write_bytes(idx_bytes(np.zeros(shape, np.uint8)))
    (idx_folder / LABELS).write_bytes(idx_bytes(np.arange(shape[0], dtype=np.uint8) % 10))
    with pytest.raises(DataError, match=r"holds no picture|without a pixel"):
        _load(idx_folder)


def test_idx_tells_which_file_is_absent(idx_folder: Path) -> None:
    (idx_folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(PreconditionError, match="t10k-labels-idx1-ubyte"):
        _load(idx_folder)


def test_idx_tells_what_to_provide_when_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match=r"needs data\.path: the folder with train-images"):
        load_dataset(DataConfig(name="mnist"))
    with pytest.raises(PreconditionError, match="nothing is there"):
        _load(tmp_path / "absent")


def test_fashion_mnist_tells_about_the_debian_package(tmp_path: Path) -> None:
    with pytest.raises(PreconditionError, match="dataset-fashion-mnist"):
        load_idx(DataConfig(name="fashion-mnist"), default_folder=tmp_path / "absent")


def test_idx_takes_the_default_folder_only_without_a_path(idx_folder: Path, tmp_path: Path) -> None:
    assert len(load_idx(DataConfig(name="fashion-mnist"), default_folder=idx_folder).train.labels) == 40
    with pytest.raises(PreconditionError, match="nothing is there"):
        load_idx(DataConfig(name="fashion-mnist", path=str(tmp_path / "typo")), default_folder=idx_folder)


def test_fashion_mnist_of_debian_has_its_published_counts() -> None:
    if not DEBIAN_FASHION_MNIST.is_dir():
        pytest.skip(f"{DEBIAN_FASHION_MNIST} is absent (Debian package dataset-fashion-mnist)")
    dataset = load_dataset(DataConfig(name="fashion-mnist"))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (51000, 9000, 10000)
    assert np.bincount(dataset.test.labels).tolist() == [1000] * 10
    assert dataset.mean[0] == pytest.approx(0.2860, abs=2e-3)
    assert dataset.std[0] == pytest.approx(0.3530, abs=2e-3)
