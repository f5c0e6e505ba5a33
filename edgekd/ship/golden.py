"""Golden inputs: a few real inputs with the logits the ONNX model gave, so that a device can judge its own engine.

The npz is written by hand because `numpy.savez` stamps the time of writing into the archive: equal arrays must give
equal bytes, or the bundle's digest would change with the clock.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from edgekd_agent.engine import npz
from numpy.typing import NDArray

from edgekd.core.errors import BundleError, DataError

if TYPE_CHECKING:
    from edgekd.data import NetInputs

GOLDEN_PATH = "golden.npz"
MAX_GOLDEN_BYTES = 64 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)
_NAMES = ("inputs", "logits")


@dataclass(frozen=True)
class Golden:
    """Inputs and the answers expected for them.

    Attributes:
        inputs: Pictures float32 `[N, C, H, W]` in 0..1, or tokens int64 `[N, L]`.
        logits: What the float32 ONNX model gives, float32 `[N, K]` or `[N, K, H, W]`.
    """

    inputs: NetInputs
    logits: NDArray[np.float32]

    def problems(self) -> tuple[str, ...]:
        """List, in words, what makes the arrays unusable."""
        inputs, logits = self.inputs, self.logits
        claims = [
            (
                (inputs.dtype.name, inputs.ndim) in (("float32", 4), ("int64", 2)),
                f"inputs are {inputs.dtype} {inputs.shape}, not float32 NCHW or int64 NL",
            ),
            (
                logits.dtype == np.float32 and logits.ndim in (2, 4),
                f"logits are {logits.dtype} {logits.shape}, not float32 NK or NKHW",
            ),
            (inputs.shape[:1] == logits.shape[:1] > (0,), f"{_rows(inputs)} inputs and {_rows(logits)} rows of logits"),
            (
                inputs.nbytes + logits.nbytes <= MAX_GOLDEN_BYTES,
                f"longer than {MAX_GOLDEN_BYTES} bytes; use fewer inputs",
            ),
        ]
        problems = [message for holds, message in claims if not holds]
        return tuple(problems or self._value_problems())

    def _value_problems(self) -> list[str]:
        are_finite = bool(np.isfinite(self.inputs).all() and np.isfinite(self.logits).all())
        is_high = self.inputs.ndim == 4 and self.inputs.max(initial=0) > 1
        claims = [
            (are_finite, "NaN or infinity in inputs or logits"),
            (self.inputs.min(initial=0) >= 0 and not is_high, "inputs are not in 0..1, or not token numbers"),
        ]
        return [message for holds, message in claims if not holds]


def _rows(array: NDArray[Any]) -> int:
    return len(array) if array.ndim else 0


def npz_bytes(golden: Golden) -> bytes:
    """Return the npz for golden inputs: stored, unstamped, the same bytes for the same arrays.

    Raises:
        DataError: The arrays cannot serve as golden inputs; every reason is listed.
    """
    if problems := golden.problems():
        raise DataError("golden inputs: " + "; ".join(problems))
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as members:
        for name in _NAMES:
            content = io.BytesIO()
            array = np.ascontiguousarray(getattr(golden, name))
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            member.create_system, member.external_attr = 3, 0o644 << 16
            members.writestr(member, content.getvalue())
    return archive.getvalue()


def read_golden(path: Path) -> Golden:
    """Read golden inputs as devices do, without trusting them: no pickles, nothing compressed, sizes before memory.

    Raises:
        BundleError: The file is not such an npz.
    """
    try:
        with open(path, "rb") as stream:
            arrays = npz.read(stream, _NAMES, MAX_GOLDEN_BYTES + 4096)
    except (OSError, npz.NotAnNpz) as error:
        raise BundleError(f"{path}: not a golden npz: {error}") from error
    golden = Golden(*(arrays[name] for name in _NAMES))
    if problems := golden.problems():
        raise BundleError(f"{path}: " + "; ".join(problems))
    return golden
