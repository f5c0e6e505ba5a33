"""Golden inputs and the answers expected for them, read without trusting the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd_agent.engine import npz
from edgekd_agent.engine.running import Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_GOLDEN_BYTES = (64 << 20) + 4096


def read(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return inputs and logits.

    Raises:
        Refused: The file is no such npz.
    """
    try:
        with open(path, "rb") as stream:
            arrays = npz.read(stream, {"inputs", "logits"}, _MAX_GOLDEN_BYTES)
    except (OSError, npz.NotAnNpz) as error:
        raise Refused("health", f"golden inputs: {error}") from error
    inputs, logits = arrays["inputs"], arrays["logits"]
    if len(inputs) != len(logits) or not len(inputs) or not np.isfinite(logits).all():
        raise Refused("health", f"golden: {len(inputs)} inputs, {len(logits)} rows of logits, or one is not finite")
    return inputs, logits
