"""Golden inputs: the same bytes for the same arrays, nothing but two plain float32 arrays accepted back."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from edgekd.core.errors import BundleError, DataError
from edgekd.ship import Golden, read_golden
from edgekd.ship.golden import npz_bytes


def _golden(inputs=None, logits=None) -> Golden:
    return Golden(
        np.zeros((2, 1, 4, 4), np.float32) if inputs is None else inputs,
        np.zeros((2, 3), np.float32) if logits is None else logits,
    )


def test_npz_is_read_by_numpy_itself(golden):
    with np.load(io.BytesIO(npz_bytes(golden)), allow_pickle=False) as arrays:
        assert set(arrays.files) == {"inputs", "logits"}
        np.testing.assert_array_equal(arrays["inputs"], golden.inputs)
        np.testing.assert_array_equal(arrays["logits"], golden.logits)


def test_tokens_are_golden_inputs_too_and_come_back_as_they_are(tmp_path):
    tokens = np.array([[2, 31000, 3], [2, 3, 0]])
    golden = Golden(tokens, np.zeros((2, 3), np.float32))
    (tmp_path / "golden.npz").write_bytes(npz_bytes(golden))
    again = read_golden(tmp_path / "golden.npz")
    assert again.inputs.dtype == np.int64
    np.testing.assert_array_equal(again.inputs, tokens)


def test_npz_carries_no_clock_and_no_compression(golden):
    with zipfile.ZipFile(io.BytesIO(npz_bytes(golden))) as archive:
        for member in archive.infolist():
            assert member.date_time == (1980, 1, 1, 0, 0, 0)
            assert member.compress_type == zipfile.ZIP_STORED


def test_memory_layout_does_not_change_the_bytes(golden):
    strided = np.asfortranarray(golden.inputs)
    assert strided.strides != golden.inputs.strides
    assert npz_bytes(Golden(strided, golden.logits)) == npz_bytes(golden)


@pytest.mark.parametrize(
    ("golden", "words"),
    [
        (_golden(inputs=np.zeros((2, 1, 4, 4))), "float64"),
        (_golden(inputs=np.zeros((2, 4, 4), np.float32)), "not float32 NCHW"),
        (_golden(logits=np.zeros((2, 3), np.float16)), "float16"),
        (_golden(logits=np.zeros((3, 3), np.float32)), "2 inputs and 3 rows"),
        (_golden(np.zeros((0, 1, 4, 4), np.float32), np.zeros((0, 3), np.float32)), "0 inputs"),
        (_golden(logits=np.full((2, 3), np.nan, np.float32)), "NaN"),
        (_golden(inputs=np.full((2, 1, 4, 4), np.inf, np.float32)), "NaN or infinity"),
        (_golden(inputs=np.full((2, 1, 4, 4), 255, np.float32)), r"not in 0\.\.1"),
        (_golden(inputs=np.full((2, 1, 4, 4), -0.1, np.float32)), r"not in 0\.\.1"),
        (_golden(inputs=np.zeros((2, 1, 3000, 3000), np.float32)), "use fewer inputs"),
        (_golden(inputs=np.zeros((2, 5), np.int32)), "int32"),
        (_golden(inputs=np.full((2, 5), -1)), "not token numbers"),
    ],
)
def test_unusable_arrays_are_refused(golden, words):
    with pytest.raises(DataError, match=words):
        npz_bytes(golden)


def test_reader_refuses_pickles_without_running_them(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    path = tmp_path / "golden.npz"
    np.savez(path, inputs=np.array([Trap()], dtype=object), logits=np.zeros((1, 3), np.float32))
    with pytest.raises(BundleError, match="not a golden npz"):
        read_golden(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BundleError, match="not a golden npz"):
        read_golden(path)
    assert not (tmp_path / "sprung").exists()


def test_reader_refuses_compressed_members(tmp_path):
    np.savez_compressed(
        tmp_path / "bomb.npz", inputs=np.zeros((2, 1, 9, 9), np.float32), logits=np.zeros((2, 3), np.float32)
    )
    with pytest.raises(BundleError, match="compressed members are not accepted"):
        read_golden(tmp_path / "bomb.npz")


@pytest.mark.parametrize("shape", [b"(99999999999, 1, 4, 4)", b"(" + b"-" * 9000 + b"1,)"])
def test_reader_takes_no_memory_for_arrays_that_are_not_there(tmp_path, shape):
    header = b"{'descr':'<f4','fortran_order':False,'shape':" + shape + b"}\n"
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        for name in ("inputs.npy", "logits.npy"):
            archive.writestr(name, array)
    with pytest.raises(BundleError, match="not a golden npz"):
        read_golden(tmp_path / "huge.npz")


def test_reader_refuses_other_arrays_and_missing_files(tmp_path):
    np.savez(tmp_path / "other.npz", inputs=np.zeros((2, 1, 4, 4), np.float32))
    with pytest.raises(BundleError, match="logits"):
        read_golden(tmp_path / "other.npz")
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((2, 1, 4, 4)), logits=np.zeros((2, 3), np.float32))
    with pytest.raises(BundleError, match="float64"):
        read_golden(tmp_path / "wide.npz")
    np.savez(tmp_path / "flat.npz", inputs=np.float32(1), logits=np.zeros((2, 3), np.float32))
    with pytest.raises(BundleError, match="not float32 NCHW"):
        read_golden(tmp_path / "flat.npz")
    np.savez(tmp_path / "long.npz", inputs=np.zeros((2, 1, 3000, 3000), np.float32), logits=np.zeros(2))
    with pytest.raises(BundleError, match="longer than"):
        read_golden(tmp_path / "long.npz")
    with pytest.raises(BundleError, match="not a golden npz"):
        read_golden(tmp_path / "absent.npz")
