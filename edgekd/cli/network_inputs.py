"""Inputs of a network from a file of the user's, or random ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray


def inputs_from_file(path: Path) -> dict[str, NDArray[Any]]:
    """Read arrays.

    Args:
        path: An .npz with an array for each input by name, or an .npy with one.

    Returns:
        The arrays by name; that of an .npy is named `input`.

    Raises:
        DataError: It is no such file, or holds Python objects, nothing, or NaN or infinity: these are equal on any two
            networks.
    """
    import zipfile

    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        found = {"input": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no .npz or .npy of numbers: {error}") from error
    if not found:
        raise DataError(f"{path} holds no array")
    for name, values in found.items():
        if not values.size:
            raise DataError(f"{path}: array {name!r} is empty, its shape is {values.shape}")
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            raise DataError(f"{path}: array {name!r} has NaN or infinite values")
    return found


def random_feeds(proto: onnx.ModelProto, count: int, seed: int) -> dict[str, NDArray[Any]]:
    """Draw inputs for a graph whose sizes are fixed but for the batch.

    Args:
        proto: The graph.
        count: Batch size where it is open.
        seed: Decides them.

    Returns:
        Inputs by name: floats in 0..1, or tokens that the network knows.

    Raises:
        ConfigError: Another size is open, or an input is neither float nor the tokens of a text.
        ExportError: An input of tokens looks nothing up in a table.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in proto.graph.initializer}
    return {value.name: _drawn(value, proto, count, rng) for value in proto.graph.input if value.name not in weights}


def _drawn(value: onnx.ValueInfoProto, proto: onnx.ModelProto, count: int, rng: np.random.Generator) -> NDArray[Any]:
    import numpy as np
    import onnx

    from edgekd.export import vocabulary_of, with_shapes

    kind = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    batch, *sizes = [dim.dim_value for dim in kind.shape.dim] or [1]
    if 0 in sizes:
        raise ConfigError(f"input {value.name!r} leaves sizes other than the batch open: pass --inputs x.npz")
    shape = (batch or count, *sizes)
    if np.issubdtype(dtype, np.floating):
        return rng.random(shape).astype(dtype)
    if dtype != np.int64 or len(shape) != 2:
        raise ConfigError(f"input {value.name!r} is {dtype}: random values mean nothing to it, pass --inputs x.npz")
    return rng.integers(0, vocabulary_of(with_shapes(proto)), shape)
