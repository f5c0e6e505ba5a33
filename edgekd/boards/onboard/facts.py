"""What a board is, read and never changed: system, GPU, TensorRT, power mode, clocks, memory, disk."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

_TIMEOUT_S = 60
_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_OPTION = re.compile(r"--([A-Za-z]\w*)")
_BANNER = re.compile(r"\[TensorRT v(\d+)\]")
_TOOL_FOLDERS = ("usr/src/tensorrt/bin", "usr/local/tensorrt/bin", "opt/tensorrt/bin")
_SYSTEM_FOLDERS = ("usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin", "usr/local/cuda/bin")
_PACKAGES = ("nvidia-jetpack", "libnvinfer10", "libnvinfer8", "libnvinfer-bin")

_TENSORRT = """\
import tensorrt as trt
print(trt.__version__)
print(hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"))
print(hasattr(trt.BuilderFlag, "FP16"))
"""


def gather(root: Path, folder: Path, cuda_program: str) -> Dict[str, Any]:
    """Ask a board what it is.

    Args:
        root: `/`.
        cuda_program: Python that prints what the CUDA driver says; a process of its own runs it, for the driver of a
            sick board may never answer.
        folder: Where jobs lie; its disk is the one that counts.

    Returns:
        Plain data; what cannot be known is None, never guessed.
    """
    release = _L4T.search(_text(root / "etc/nv_tegra_release"))
    compatible = _text(root / "proc/device-tree/compatible").replace("\0", " ")
    chip = re.search(r"nvidia,(tegra\d+)", compatible)
    return {
        "schema_version": 1,
        "hostname": platform.node(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "boot_id": boot_id(root),
        "model": _text(root / "proc/device-tree/model").replace("\0", "").strip() or None,
        "chip": chip.group(1) if chip else None,
        "l4t": "%s.%s" % (release.group(1), release.group(2)) if release else None,
        "packages": _packages(root),
        "cuda": _cuda_version(root),
        "gpu": _asked([sys.executable, "-c", cuda_program]),
        "tensorrt_python": _asked([sys.executable, "-c", _TENSORRT]),
        "trtexec": _trtexec(root),
        "tegrastats": find(root, "tegrastats"),
        "power": _power(root),
        "clocks_mhz": clocks_mhz(root),
        "temperatures_c": temperatures_c(root),
        "memory": memory(root),
        "disk": {"total_bytes": shutil.disk_usage(str(folder)).total, "free_bytes": free_bytes(folder)},
    }


def boot_id(root: Path) -> str:
    """Return what differs after every start of the system."""
    return _text(root / "proc/sys/kernel/random/boot_id").strip()


def memory(root: Path) -> Dict[str, int]:
    """Return bytes of memory: `total_bytes`, `available_bytes`, `swap_free_bytes`."""
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE))
    keys = {"total_bytes": "MemTotal", "available_bytes": "MemAvailable", "swap_free_bytes": "SwapFree"}
    return {name: 1024 * int(found.get(key, 0)) for name, key in keys.items()}


def free_bytes(folder: Path) -> int:
    """Return what an ordinary user may still write there."""
    return shutil.disk_usage(str(folder)).free


def clocks_mhz(root: Path) -> Dict[str, Dict[str, float]]:
    """Return `now`, `low` and `high` of every clock that the system shows (GPU, memory, CPU)."""
    clocks = {}
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        clocks[folder.name] = _clock(folder, ("cur_freq", "min_freq", "max_freq"), 1e6)
    for folder in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        clocks[folder.name] = _clock(folder, ("scaling_cur_freq", "scaling_min_freq", "scaling_max_freq"), 1e3)
    emc = _number(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate")  # only root may read it
    if emc is not None:
        clocks["emc"] = {"now": emc / 1e6}
    return {name: clock for name, clock in clocks.items() if clock}


def temperatures_c(root: Path) -> Dict[str, float]:
    """Return the temperature of every thermal zone that answers."""
    found = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        value = _number(zone / "temp")
        if value is not None:
            found[_text(zone / "type").strip() or zone.name] = value / 1000
    return found


def find(root: Path, name: str) -> Optional[str]:
    """Return the path of a program, in the places of JetPack as well as in `PATH`; None when it is not there."""
    folders = [str(root / folder) for folder in (*_TOOL_FOLDERS, *_SYSTEM_FOLDERS)]
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))


def _trtexec(root: Path) -> Optional[Dict[str, Any]]:
    path = find(root, "trtexec")
    if path is None:
        return None
    said = _asked([path, "--help"])
    text = said.get("text") or said.get("error", "")
    banner = _BANNER.search(text)
    options = sorted(set(_OPTION.findall(text)))
    return {"path": path, "version": _version(banner.group(1)) if banner else None, "options": options}


def _version(digits: str) -> str:
    """Read TensorRT's number: `8502` is 8.5.2, `100300` is 10.3.0."""
    number, scale = int(digits), 1000 if len(digits) < 5 else 10000
    return "%d.%d.%d" % (number // scale, number % scale // 100, number % 100)


def _power(root: Path) -> Dict[str, Any]:
    nvpmodel = find(root, "nvpmodel")
    said = _asked([nvpmodel, "-q"]) if nvpmodel else {"error": "nvpmodel is not there"}
    return {
        "query": said.get("text"),
        "status": _text(root / "var/lib/nvpmodel/status") or None,
        "conf": _text(root / "etc/nvpmodel.conf") or None,
    }


def _packages(root: Path) -> Dict[str, str]:
    query = find(root, "dpkg-query")
    if query is None:
        return {}
    said = _asked([query, "-W", "-f", "${Package} ${Version}\\n", *_PACKAGES])
    lines = (line.split() for line in (said.get("text") or said.get("error", "")).splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2 and words[0] in _PACKAGES}


def _cuda_version(root: Path) -> Optional[str]:
    for name in ("usr/local/cuda/version.json", "usr/local/cuda/version.txt"):
        found = re.search(r'(?:"version"\s*:\s*"|CUDA Version )(\d+\.\d+(?:\.\d+)?)', _text(root / name))
        if found:
            return found.group(1)
    return None


def _asked(arguments: List[str]) -> Dict[str, str]:
    try:
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    out, complaint = done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")
    if done.returncode == 0:
        return {"text": out or complaint}
    return {"error": (complaint + out).strip() or "exit status %d" % done.returncode}


def _clock(folder: Path, names: Any, scale: float) -> Dict[str, float]:
    values = [_number(folder / name) for name in names]
    return {key: value / scale for key, value in zip(("now", "low", "high"), values) if value}  # noqa: B905 - Python 3.8


def _number(path: Path) -> Optional[float]:
    try:
        return float(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
