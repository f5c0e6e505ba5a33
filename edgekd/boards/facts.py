"""What a board said about itself, read with the parsers that a user's files go through."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.boards.program import board_program
from edgekd.core.digest import sha256_of_json
from edgekd.core.errors import DataError
from edgekd.targets.device_query import GpuFacts, parse_pairs
from edgekd.targets.jetpack import jetpack_of_l4t
from edgekd.targets.nvpmodel import parse_nvpmodel_conf, parse_nvpmodel_query

_SM_OF_CHIP = {"tegra210": 53, "tegra186": 62, "tegra194": 72, "tegra234": 87, "tegra264": 110}
_PACKAGES = ("libnvinfer10", "libnvinfer8", "libnvinfer-bin")
_SHAPES = ("minShapes", "optShapes", "maxShapes", "shapes")
_EXPORTS = ("exportTimes", "exportProfile", "exportLayerInfo")
_LIMITS = ("memPoolSize", "timingCacheFile", "warmUp", "duration", "builderOptimizationLevel")
_PORTABLE = ("versionCompatible", "hardwareCompatibilityLevel")
_DLA = ("useDLACore", "allowGPUFallback")
_PYTHON_OPTIONS = frozenset(
    ("onnx", "saveEngine", "loadEngine", "skipInference", *_LIMITS, *_SHAPES, *_EXPORTS, *_DLA, *_PORTABLE)
)
_PACKAGE_VERSION = re.compile(r"(\d+\.\d+\.\d+)")


@dataclass(frozen=True)
class Trtexec:
    """The `trtexec` of a board, or what stands in for it there.

    Attributes:
        command: Program and first arguments.
        version: TensorRT version of its banner; None when it shows none.
        options: Names of the options it knows.
        is_python: It is edgekd's own, on the `tensorrt` module of the board's Python.
    """

    command: tuple[str, ...]
    version: str | None
    options: frozenset[str]
    is_python: bool = False


@dataclass(frozen=True)
class BoardFacts:
    """A board as found.

    Attributes:
        raw: The whole answer, kept as `facts.json`.
        model: Its name in the device tree.
        sm: CUDA compute capability times ten, of the driver or of the chip; None when neither says.
        gpu: What the CUDA driver says; None when it does not answer.
        l4t: L4T release.
        jetpack: JetPack release of it.
        tensorrt: TensorRT version, of trtexec, its Python or its packages.
        trtexec: Its trtexec, else edgekd's own if its Python has `tensorrt`; None when neither is there.
        power_mode: Power mode it is in.
        is_clock_fixed: Whether the GPU clock is held (`jetson_clocks`); None when it cannot be seen.
    """

    raw: Mapping[str, Any]
    model: str | None
    sm: int | None
    gpu: GpuFacts | None
    l4t: str | None
    jetpack: str | None
    tensorrt: str | None
    trtexec: Trtexec | None
    power_mode: str | None
    is_clock_fixed: bool | None

    @property
    def available_bytes(self) -> int:
        """Memory and swap that are free."""
        return int(self.raw["memory"]["available_bytes"]) + int(self.raw["memory"]["swap_free_bytes"])

    @property
    def free_disk_bytes(self) -> int:
        """What may still be written where jobs lie."""
        return int(self.raw["disk"]["free_bytes"])

    @property
    def identity(self) -> dict[str, Any]:
        """What an engine and its times depend on; free memory, temperatures and the like take no part."""
        return {
            "model": self.model,
            "machine": self.raw["machine"],
            "chip": self.raw["chip"],
            "gpu": None if self.gpu is None else [self.gpu.name, self.gpu.sm, self.gpu.sms, self.gpu.memory_gb],
            "l4t": self.l4t,
            "cuda": self.raw["cuda"],
            "tensorrt": self.tensorrt,
            "power_mode": self.power_mode,
        }

    @property
    def timing_key(self) -> str:
        """Digest that kernel timings are kept by: they hold for one GPU, CUDA, TensorRT and power mode."""
        return sha256_of_json(["timing", self.identity])

    @property
    def words(self) -> str:
        """The board in one line."""
        named = self.model or self.raw["hostname"]
        jetpack = f"JetPack {self.jetpack}" if self.jetpack else f"L4T {self.l4t}" if self.l4t else "no JetPack"
        architecture = f"sm_{self.sm}" if self.sm else "GPU unknown"
        return f"{named}, {architecture}, {jetpack}, TensorRT {self.tensorrt or '?'}, {self.power_mode or 'no'} mode"


def facts_from_json(document: Mapping[str, Any]) -> BoardFacts:
    """Read the answer of the `facts` verb; raises `DataError` when it is not one."""
    try:
        return _facts(document)
    except (KeyError, TypeError) as error:
        raise DataError(f"the facts of the board cannot be read: {error!r}") from error


def _facts(document: Mapping[str, Any]) -> BoardFacts:
    gpu = parse_pairs(document["gpu"]["text"]) if document["gpu"].get("text") else None
    found = jetpack_of_l4t(document["l4t"]) if document["l4t"] else None
    trtexec = _trtexec(document)
    return BoardFacts(
        raw=document,
        model=document["model"],
        sm=gpu.sm if gpu else _SM_OF_CHIP.get(document["chip"] or ""),
        gpu=gpu,
        l4t=document["l4t"],
        jetpack=found[0] if found else None,
        tensorrt=_tensorrt(document, trtexec),
        trtexec=trtexec,
        power_mode=_power_mode(document["power"]),
        is_clock_fixed=_is_clock_fixed(document["clocks_mhz"]),
    )


def _trtexec(document: Mapping[str, Any]) -> Trtexec | None:
    said = document["trtexec"]
    if said is not None:
        return Trtexec((said["path"],), said["version"], frozenset(said["options"]))
    words = (document["tensorrt_python"].get("text") or "").split()
    version = _PACKAGE_VERSION.match(words[0]) if words else None
    if version is None:
        return None
    is_strong, has_flags = words[1:2] == ["True"], words[2:3] == ["True"]
    typing = {"stronglyTyped"} if is_strong else set()
    typing |= {"fp16", "int8"} if has_flags or not is_strong else set()
    program = f"../../tools/{board_program().sha256}.pyz"
    return Trtexec(("python3", program, "/", "trt"), version[1], _PYTHON_OPTIONS | typing, is_python=True)


def _tensorrt(document: Mapping[str, Any], trtexec: Trtexec | None) -> str | None:
    if trtexec is not None and trtexec.version:
        return trtexec.version
    packages = document["packages"]
    named = next((packages[name] for name in _PACKAGES if name in packages), "")
    found = _PACKAGE_VERSION.match((document["tensorrt_python"].get("text") or "").strip() or named)
    return found[1] if found else None


def _power_mode(power: Mapping[str, Any]) -> str | None:
    """Name the mode by `nvpmodel -q`, else by the board's files; a mode that cannot be read forbids nothing."""
    with contextlib.suppress(DataError):
        return parse_nvpmodel_query(power["query"] or "")[0]
    number = re.search(r"pmode:(\d+)", power["status"] or "")
    with contextlib.suppress(DataError):
        names = {mode.id: mode.name for mode in parse_nvpmodel_conf(power["conf"] or "")}
        return names.get(int(number[1])) if number else None
    return None


def _is_clock_fixed(clocks: Mapping[str, Mapping[str, float]]) -> bool | None:
    for name, clock in clocks.items():
        if re.search(r"gpu|gv11b|ga10b|gp10b|gm20b|gb10b", name) and {"low", "high"} <= set(clock):
            return clock["low"] == clock["high"]
    return None
