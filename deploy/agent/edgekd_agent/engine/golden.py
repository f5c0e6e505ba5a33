"""Golden inputs and the answers expected for them, read without trusting the file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekd_agent.engine.running import Refused

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_GOLDEN_BYTES = (64 << 20) + 4096
_MEMBERS = ["inputs.npy", "logits.npy"]


def read(path: Path) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Return inputs and logits; no pickles, no compressed members, bounded size.

    Raises:
        Refused: The file is no such npz.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        is_plain = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        is_small = sum(member.file_size for member in members) <= _MAX_GOLDEN_BYTES
        if not is_plain or not is_small or sorted(member.filename for member in members) != _MEMBERS:
            raise Refused("health", f"{path.name}: not an uncompressed npz of inputs and logits")
        with np.load(path, allow_pickle=False) as arrays:
            inputs, logits = arrays["inputs"], arrays["logits"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Refused("health", f"{path.name}: not a golden npz: {error}") from error
    if len(inputs) != len(logits) or not len(inputs) or not np.isfinite(logits).all():
        raise Refused(
            "health", f"{path.name}: {len(inputs)} inputs, {len(logits)} rows of logits, or one is not finite"
        )
    return inputs, logits
