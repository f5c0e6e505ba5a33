import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError, PreconditionError
from edgekd.data.config import DataConfig
from edgekd.data.loading import load_dataset
from edgekd.data.sources import DATASETS, Source

NAMES10 = [f"thing {label}" for label in range(10)]


def _record(label: bytes, seed: int) -> tuple[bytes, np.ndarray]:
    picture = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
    red, green, blue = (bytes(picture[y, x, c] for y in range(32) for x in range(32)) for c in range(3))
    return label + red + green + blue, picture


def _cifar10_files(per_batch: int = 10) -> tuple[dict[str, bytes], list[np.ndarray]]:
    files, pictures = {}, []
    for batch in range(6):
        name = f"data_batch_{batch + 1}.bin" if batch < 5 else "test_batch.bin"
        records = [_record(bytes([row % 10]), 100 * batch + row) for row in range(per_batch)]
        files[name] = b"".join(content for content, _ in records)
        pictures += [picture for _, picture in records]
    files["batches.meta.txt"] = ("\n".join(NAMES10) + "\n\n").encode()
    return files, pictures


def _write_folder(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def _write_tar(path: Path, folder: str, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _load(path: Path, name: str = "cifar10") -> Source:
    return DATASETS[name].load(DataConfig(name=name, path=str(path)))


def test_cifar10_reads_records_in_order_from_planes(tmp_path: Path) -> None:
    files, pictures = _cifar10_files()
    source = _load(_write_folder(tmp_path, files))
    np.testing.assert_array_equal(source.train.inputs.gather(np.arange(50)), np.stack(pictures[:50]))
    np.testing.assert_array_equal(source.test.inputs.gather(np.arange(10)), np.stack(pictures[50:]))
    assert source.train.labels.tolist() == list(range(10)) * 5
    assert source.task.targets == tuple(NAMES10)


def test_cifar10_is_the_same_from_folder_wrapped_folder_archive_and_folder_of_archive(tmp_path: Path) -> None:
    files, _ = _cifar10_files()
    places = [
        _write_folder(tmp_path / "plain", files),
        _write_folder(tmp_path / "wrapped" / "cifar-10-batches-bin", files).parent,
        _write_tar(tmp_path / "any name.tgz", "cifar-10-batches-bin", files),
        _write_folder(tmp_path / "download", {}),
    ]
    _write_tar(tmp_path / "download" / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    digests = {load_dataset(DataConfig(name="cifar10", path=str(place))).digest for place in places}
    assert len(digests) == 1


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    records = [_record(bytes([row % 20, row % 100]), row) for row in range(200)]
    content = b"".join(record for record, _ in records)
    names = "\n".join(f"fine {label}" for label in range(100)).encode()
    files = {"train.bin": content, "test.bin": content[: 3074 * 100], "fine_label_names.txt": names}
    source = _load(_write_tar(tmp_path / "c100.tar.gz", "cifar-100-binary", files), "cifar100")
    assert source.train.labels.tolist() == [row % 100 for row in range(200)]
    np.testing.assert_array_equal(source.train.inputs.gather(np.array([7])), records[7][1][None])
    assert len(source.task.targets) == 100


@pytest.mark.parametrize("is_archive", [True, False])
def test_cifar10_refuses_the_python_version_and_names_the_binary_one(tmp_path: Path, is_archive: bool) -> None:
    files = {"data_batch_1": b"\x80\x02", "batches.meta": b"\x80\x02"}
    if is_archive:
        place = _write_tar(tmp_path / "cifar-10-python.tar.gz", "cifar-10-batches-py", files)
    else:
        place = _write_folder(tmp_path / "cifar-10-batches-py", files)
    with pytest.raises(DataError, match=r"Python version.*pickle.*Take cifar-10-binary\.tar\.gz"):
        _load(place)


def test_cifar100_refuses_the_python_version(tmp_path: Path) -> None:
    place = _write_tar(tmp_path / "c.tgz", "cifar-100-python", {"train": b"\x80\x02", "meta": b"\x80\x02"})
    with pytest.raises(DataError, match=r"Take cifar-100-binary\.tar\.gz"):
        _load(place, "cifar100")


def test_cifar10_tells_which_batch_is_absent(tmp_path: Path) -> None:
    files, _ = _cifar10_files()
    del files["data_batch_3.bin"]
    with pytest.raises(PreconditionError, match=r"data_batch_3\.bin not found"):
        _load(_write_folder(tmp_path, files))


def test_cifar10_refuses_a_batch_cut_short(tmp_path: Path) -> None:
    files, _ = _cifar10_files()
    files["data_batch_2.bin"] = files["data_batch_2.bin"][:-1]
    with pytest.raises(DataError, match=r"data_batch_2\.bin is 30,729 bytes.*3073-byte"):
        _load(_write_folder(tmp_path, files))


def test_cifar10_refuses_a_label_outside_the_classes(tmp_path: Path) -> None:
    files, _ = _cifar10_files()
    files["test_batch.bin"] = b"\x0a" + files["test_batch.bin"][1:]
    with pytest.raises(DataError, match=r"test_batch.*label 10 of picture 0 is outside 0\.\.9"):
        _load(_write_folder(tmp_path, files))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\n", "2 class names, not 10"),
        (b"\n", "no class name"),
        (b"a\na\n", "a appear more than once"),
        (b"\xff", "UTF-8"),
    ],
)
def test_cifar10_refuses_wrong_class_names(tmp_path: Path, content: bytes, message: str) -> None:
    files, _ = _cifar10_files()
    files["batches.meta.txt"] = content
    with pytest.raises(DataError, match=message):
        _load(_write_folder(tmp_path, files))


def test_cifar10_refuses_an_archive_cut_short(tmp_path: Path) -> None:
    files, _ = _cifar10_files()
    path = _write_tar(tmp_path / "c.tgz", "cifar-10-batches-bin", files)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(DataError, match="cut short"):
        _load(path)
