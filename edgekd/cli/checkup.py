"""What `edgekd doctor` looks at: each check says what it found, what is needed and how to mend it.

Being installed is not enough: packages are imported and ONNX Runtime providers are asked to run a model, each in a
process of its own, because a package for another CUDA or without its driver is often found and yet unusable.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from edgekd.cli.packages import DRIVER_PROBE, OPTIONAL, PROVIDERS_PROBE, REQUIRED, Package
from edgekd.cli.probe import probe

Status = Literal["ok", "absent", "broken"]
_GIB = 1 << 30
_DISK_GIB, _MEMORY_GIB = 2.0, 2.0
_WORKERS = 4
_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Check:
    """One line of the doctor's table.

    Attributes:
        name: What was looked at.
        status: `"ok"`, `"absent"` (not there) or `"broken"` (there, and unusable).
        found: What is there.
        needed: What should be.
        fix: What to do; empty when there is nothing to do.
        is_required: edgekd cannot work without it.
    """

    name: str
    status: Status
    found: str
    needed: str
    fix: str
    is_required: bool

    @property
    def is_failed(self) -> bool:
        """Whether this alone makes the machine unfit."""
        return self.is_required and self.status != "ok"


def check_all(folder: Path) -> list[Check]:
    """Look at this machine.

    Args:
        folder: Where runs will be kept.

    Returns:
        Every check, in the order of the table.
    """
    tasks: list[Callable[[], Sequence[Check]]] = [
        lambda: [check_python()],
        *(lambda package=package: [check_package(package, is_required=True)] for package in REQUIRED),
        check_onnxruntime,
        lambda: [check_driver()],
        *(lambda package=package: [check_package(package, is_required=False)] for package in OPTIONAL),
        lambda: [check_board(), check_memory(), check_disk(folder), check_writable(folder)],
    ]
    with ThreadPoolExecutor(_WORKERS) as workers:
        return [check for checks in workers.map(lambda task: task(), tasks) for check in checks]


def check_python() -> Check:
    """Check the interpreter."""
    status: Status = "ok" if sys.version_info >= (3, 10) else "broken"
    return Check(
        "python", status, platform.python_version(), ">= 3.10", _unless_ok(status, "install Python 3.12"), True
    )


def check_package(package: Package, *, is_required: bool) -> Check:
    """Check that a package is installed, recent enough and importable.

    Args:
        package: The package.
        is_required: edgekd cannot work without it.
    """
    needed = f">= {package.minimum}" if package.minimum else "any"
    installed = next((text for text in map(_version, package.distributions) if text), None)
    answer = probe(f"{package.probe}\nprint({package.version_of})")
    if answer.is_ok:
        found, status = answer.text, _recent_enough(answer.text, package.minimum)
    elif installed is None and not _is_found(package.module):
        found, status = "not installed", "absent"
    else:
        found, status = f"{installed or 'found'}, but: {answer.text}", "broken"
    return Check(
        package.name, status, found, f"{needed}, {package.purpose}", _unless_ok(status, package.fix), is_required
    )


def check_onnxruntime() -> list[Check]:
    """Check that exactly one ONNX Runtime is installed, and which of its providers run a model."""
    installed = {name: text for name in _RUNTIMES if (text := _version(name))}
    if len(installed) > 1:
        both = " and ".join(f"{name} {text}" for name, text in installed.items())
        fix = "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install one of 'edgekd[cpu]', 'edgekd[gpu]'"
        return [Check("onnxruntime", "broken", f"{both}: they overwrite each other", "one of them", fix, True)]
    answer = probe(PROVIDERS_PROBE)
    if not answer.is_ok:
        status: Status = "broken" if installed else "absent"
        found = f"{', '.join(installed.values())}, but: {answer.text}" if installed else "not installed"
        return [Check("onnxruntime", status, found, ">= 1.20, runs models", "pip install 'edgekd[cpu]'", True)]
    facts = json.loads(answer.text)
    status = _recent_enough(facts["version"], "1.20")
    fix = _unless_ok(status, "pip install -U 'edgekd[cpu]'")
    first = Check("onnxruntime", status, facts["version"], ">= 1.20, runs models", fix, True)
    return [first, *_provider_checks(facts["providers"])]


def _provider_checks(refusals: dict[str, str]) -> Iterator[Check]:
    for provider, refusal in refusals.items():
        name = f"  {provider}"
        fix = "install the CUDA and cuDNN (or TensorRT) this wheel was built for, or use 'edgekd[cpu]'"
        is_required = provider == "CPUExecutionProvider"
        if refusal:
            yield Check(name, "broken", f"listed, but: {refusal}", "runs a model", fix, is_required)
        else:
            yield Check(name, "ok", "runs a model", "runs a model", "", is_required)


def check_driver() -> Check:
    """Check the NVIDIA driver and list the GPUs."""
    answer = probe(DRIVER_PROBE)
    status: Status = "ok" if answer.is_ok else "absent" if "libcuda.so.1" in answer.text else "broken"
    found = answer.text if status != "absent" else "no libcuda.so.1"
    fix = _unless_ok(status, "needed only to measure on a GPU here: install the NVIDIA driver")
    return Check("gpu driver", status, found, "for GPU engines", fix, False)


def check_board(root: Path = Path("/")) -> Check:
    """Tell a Jetson by the files its system carries.

    Args:
        root: Root of the file system.
    """
    release, model = root / "etc/nv_tegra_release", root / "proc/device-tree/model"
    if not release.is_file():
        return Check("jetson", "absent", platform.machine(), "only on the board", "", False)
    name = model.read_text(errors="replace").rstrip("\0\n") if model.is_file() else "Jetson"
    return Check(
        "jetson", "ok", f"{name}, {release.read_text().split(',')[0].lstrip('# ')}", "only on the board", "", False
    )


def check_memory() -> Check:
    """Check the memory free for training."""
    import psutil

    free_gib = psutil.virtual_memory().available / _GIB
    status: Status = "ok" if free_gib >= _MEMORY_GIB else "broken"
    fix = _unless_ok(status, "close other programs, or use a smaller batch size and data limit")
    return Check("memory", status, f"{free_gib:.1f} GiB free", f">= {_MEMORY_GIB:g} GiB", fix, True)


def check_disk(folder: Path) -> Check:
    """Check the room for runs.

    Args:
        folder: Where runs will be kept.
    """
    free_gib = shutil.disk_usage(_existing(folder)).free / _GIB
    status: Status = "ok" if free_gib >= _DISK_GIB else "broken"
    fix = _unless_ok(status, f"free space on the disk of {folder}, or choose another with --folder")
    return Check("disk", status, f"{free_gib:.1f} GiB free", f">= {_DISK_GIB:g} GiB", fix, True)


def check_writable(folder: Path) -> Check:
    """Check that runs can be written.

    Args:
        folder: Where runs will be kept.
    """
    place = _existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".edgekd-doctor-"):
            return Check("write access", "ok", str(place), "a folder for runs", "", True)
    except OSError as error:
        found = f"{place}: {error.strerror}"
        return Check("write access", "broken", found, "a folder for runs", "choose another with --folder", True)


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _is_found(module: str) -> bool:
    return probe(f"import importlib.util, sys\nsys.exit(importlib.util.find_spec({module!r}) is None)").is_ok


def _recent_enough(found: str, minimum: str) -> Status:
    return "ok" if _numbers(found) >= _numbers(minimum) else "broken"


def _numbers(text: str) -> tuple[int, ...]:
    release = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, release[0].split("."))) if release else ()


def _unless_ok(status: Status, fix: str) -> str:
    return "" if status == "ok" else fix
