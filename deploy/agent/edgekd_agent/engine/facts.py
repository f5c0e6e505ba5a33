"""What of a device decides whether an engine runs there: asked once for each start of the system, then remembered."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd_agent import documents
from edgekd_agent.layout import Layout

_TIMEOUT_S = 60
_L4T = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# A process of its own asks: a sick driver may never answer, and a library may crash.
_PROBE = """\
import ctypes, json, sys
found = {}
try:
    import tensorrt
    found["tensorrt"] = tensorrt.__version__
except Exception:
    pass
try:
    import onnxruntime
    found["onnxruntime"] = onnxruntime.__version__
except Exception:
    pass
try:
    cuda = ctypes.CDLL("libcuda.so.1")
    number, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(device), 0) == 0:
        cuda.cuDeviceGetName(name, 256, device)
        found["gpu"] = name.value.decode("utf-8", "replace")
        parts = []
        for attribute in (75, 76):
            cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
            parts.append(number.value)
        found["sm"] = 10 * parts[0] + parts[1]
        cuda.cuDriverGetVersion(ctypes.byref(number))
        found["cuda_driver"] = "%d.%d" % (number.value // 1000, number.value % 1000 // 10)
except Exception:
    pass
print("FACTS " + json.dumps(found))
"""


def boot_id() -> str:
    """Return what differs after every start of the system."""
    return _text(_BOOT_ID).strip()


def quick() -> dict[str, Any]:
    """Return what can be read without starting anything."""
    release = _L4T.search(_text(Path("/etc/nv_tegra_release")))
    model = _text(Path("/proc/device-tree/model")).replace("\0", "").strip()
    return {
        "machine": platform.machine(),
        "model": model or None,
        "l4t": f"{release.group(1)}.{release.group(2)}" if release else None,
    }


def gather(layout: Layout) -> Mapping[str, Any]:
    """Return all facts; the libraries are asked once for each start of the system and each Python.

    An upgrade of JetPack starts the system anew, so what was remembered cannot outlive it; other upgrades of the
    libraries are noticed by `forget`.
    """
    kept = documents.read(layout.facts)
    stamp = [boot_id(), sys.executable, platform.python_version()]
    if kept is not None and kept.get("stamp") == stamp and isinstance(kept.get("facts"), dict):
        return dict(kept["facts"])
    facts = {**quick(), **_asked()}
    documents.write_lightly(layout.facts, {"schema_version": 1, "stamp": stamp, "facts": facts})
    return facts


def remembered(layout: Layout) -> Mapping[str, Any]:
    """Return what is known without asking anything: for commands that must answer at once."""
    kept = documents.read(layout.facts) or {}
    facts = kept.get("facts")
    return {**quick(), **(facts if isinstance(facts, dict) else {})}


def available_memory_bytes() -> int:
    """Return how much memory can be had now."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


def hottest_c() -> float | None:
    """Return the temperature of the hottest thermal zone, or None when none answers."""
    values = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        text = _text(zone).strip()
        if text.lstrip("-").isdigit():
            values.append(int(text) / 1000)
    return max(values, default=None)


def _asked() -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith("FACTS "):
            found = json.loads(line.partition(" ")[2])
            return found if isinstance(found, dict) else {}
    return {}


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
