"""Arrays from strangers."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
from edgekd_agent.engine import npz
from hypothesis import given, settings
from hypothesis import strategies as st

INPUTS = np.arange(12, dtype=np.float32).reshape(2, 2, 3)


def archive(compression=zipfile.ZIP_STORED, **members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as whole:
        for name, content in members.items():
            whole.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy(array, version=(1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def read(content: bytes, most_bytes: int = 1 << 20):
    return npz.read(io.BytesIO(content), {"inputs"}, most_bytes)


@pytest.mark.parametrize("array", [INPUTS, np.asfortranarray(INPUTS), INPUTS.astype(np.int64), INPUTS[:, :0]])
def test_arrays_of_numpy_come_back(array) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, inputs=array)
    found = read(buffer.getvalue())["inputs"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


def test_written_arrays_are_read_by_numpy() -> None:
    with np.load(io.BytesIO(npz.written({"logits": INPUTS})), allow_pickle=False) as found:
        np.testing.assert_array_equal(found["logits"], INPUTS)


def lying_header(shape: str) -> bytes:
    return npy(INPUTS).replace(b"(2, 2, 3)", shape.encode()[:9].ljust(9))


def nested_header() -> bytes:
    header = f"{{'descr':'<f4','fortran_order':False,'shape':({'-' * 9000}1,)}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an npz"),
        (b"PK\x05\x06" + bytes(18), "not an npz of inputs"),
        (archive(other=npy(INPUTS)), "not an npz of inputs"),
        (archive(inputs=npy(INPUTS), more=npy(INPUTS)), "not an npz of inputs"),
        (archive(zipfile.ZIP_DEFLATED, inputs=npy(INPUTS)), "compressed"),
        (archive(inputs=pickle.dumps([1])), "not an npz"),
        (archive(inputs=npy(INPUTS, (2, 0))), "version 1.0"),
        (archive(inputs=npy(INPUTS)[:-1]), "bytes are no"),
        (archive(inputs=lying_header("(999999,)")), "bytes are no"),
        (archive(inputs=nested_header()), "not an npz"),
        (archive(inputs=npy(np.zeros(3, complex))), "not accepted"),
        (archive(inputs=npy(np.zeros(3, "U5"))), "not accepted"),
        (archive(inputs=npy(np.zeros((1,) * 9))), "not accepted"),
    ],
)
def test_anything_else_is_refused_with_the_reason(content, words) -> None:
    with pytest.raises(npz.NotAnNpz, match=words):
        read(content)


def test_object_arrays_are_refused_before_anything_is_unpickled() -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([{}], object), allow_pickle=True)
    with pytest.raises(npz.NotAnNpz):
        read(archive(inputs=buffer.getvalue()))


def test_no_more_than_what_was_allowed_is_read() -> None:
    with pytest.raises(npz.NotAnNpz, match="longer than 50"):
        read(archive(inputs=npy(INPUTS)), 50)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_archives_are_refused_or_give_numbers(data) -> None:
    content = bytearray(archive(inputs=npy(INPUTS)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content))
    except npz.NotAnNpz:
        return
    assert found["inputs"].dtype.kind in "fiu"


@pytest.mark.parametrize("shape", [(), (0,), (-1, 12), (3, 3), (1,) * 9])
def test_raw_numbers_must_have_the_shape_they_claim(shape) -> None:
    with pytest.raises(npz.NotAnNpz):
        npz.from_raw(INPUTS.tobytes(), shape, np.dtype(np.float32))
    np.testing.assert_array_equal(npz.from_raw(INPUTS.tobytes(), (2, 2, 3), np.dtype(np.float32)), INPUTS)
