"""JetPack lines: which L4T, CUDA, TensorRT and Python a Jetson runs, as data."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from edgekd.core.config import StrictModel, read_yaml, validated


class JetPackLine(StrictModel):
    """One row of the table.

    Attributes:
        jetpack: Releases, oldest first.
        l4t: The L4T release of each of them.
        cuda: CUDA.
        tensorrt: TensorRT.
        cudnn: cuDNN; `None` where it is not known.
        python: Python on the device.
        ubuntu: Ubuntu of its root file system.
        sm: Architectures that it has.
        status: Letter and source of the row.
    """

    jetpack: tuple[str, ...]
    l4t: tuple[str, ...]
    cuda: str
    tensorrt: str
    cudnn: str | None = None
    python: str
    ubuntu: str
    sm: tuple[int, ...]
    status: str


class JetPackFile(StrictModel):
    """The data file."""

    schema_version: Literal[1]
    lines: tuple[JetPackLine, ...]


@lru_cache(maxsize=1)
def jetpack_lines() -> tuple[JetPackLine, ...]:
    """Return every line, oldest first."""
    path = Path(str(files("edgekd.targets") / "data" / "jetpack.yaml"))
    return validated(JetPackFile, read_yaml(path), str(path)).lines


def jetpack_of_l4t(l4t: str) -> tuple[str, JetPackLine] | None:
    """Find what an L4T release belongs to.

    Args:
        l4t: Such as `"36.4.3"`; trailing zeros do not matter.

    Returns:
        The JetPack release and its line; `None` when it is in no row.
    """
    for line in jetpack_lines():
        for release, known in zip(line.jetpack, line.l4t, strict=True):
            if _short(known) == _short(l4t):
                return release, line
    return None


def jetpack_line(release: str) -> JetPackLine | None:
    """Return the line of a JetPack release such as `"6.2"`; `None` when it is in no row."""
    return next((line for line in jetpack_lines() if release in line.jetpack), None)


def _short(version: str) -> str:
    while version.endswith(".0"):
        version = version.removesuffix(".0")
    return version
