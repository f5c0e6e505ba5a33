"""Install and rollback, over and over, in one process: disk, memory and descriptors must not grow."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from edgekd_agent.__main__ import main
from models import Recipe, bundle
from provisioned import Signer, provision, push
from real_device import what_runs

_SETTLED = 0.5
"""Share of the cycles after which everything has its size: caches are full, the journal was compacted."""


def run(scratch: Path, *, count: int = 1000, is_pretended: bool = True) -> dict[str, Any]:
    """Do it.

    Args:
        scratch: Folder for the device.
        count: Number of cycles; each installs a new release and rolls it back, every fourth one keeps it.
        is_pretended: Build in this process instead of with ONNX Runtime in children.

    Returns:
        Plain figures.
    """
    import pretended

    signer, root = Signer(), scratch / "device"
    provision(root, signer)
    judge = pretended.what_runs if is_pretended else what_runs
    failures, samples = [], []
    with contextlib.ExitStack() as stack:
        if is_pretended:
            stack.enter_context(pretended.tensorrt())
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        runs = None
        for number in range(1, count + 1):
            release = bundle(Recipe(number, padding_bytes=10000, backend="tensorrt" if is_pretended else "onnxruntime"))
            push(root, signer, release)
            code = main(["--root", str(root), "install"])
            if code or judge(root) != release.sha256:
                failures.append(f"cycle {number}: install ended with {code}")
            is_kept = runs is None or number % 4 == 0
            if not is_kept:
                code = main(["--root", str(root), "rollback"])
                if code or judge(root) != runs:
                    failures.append(f"cycle {number}: rollback ended with {code}")
            runs = judge(root)
            samples.append((_disk_bytes(root), _memory_kib(), len(list(Path("/proc/self/fd").iterdir()))))
    settled = samples[int(_SETTLED * count) :] or samples
    names = ("disk_bytes", "memory_kib", "descriptors")
    return {
        "cycles": count,
        "failures": failures,
        **{f"most_{name}": max(sample[index] for sample in samples) for index, name in enumerate(names)},
        **{f"settled_{name}": settled[0][index] for index, name in enumerate(names)},
        **{f"last_{name}": samples[-1][index] for index, name in enumerate(names)},
        "entries": sum(1 for _ in root.rglob("*")),
    }


def _disk_bytes(root: Path) -> int:
    return sum(path.lstat().st_size for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def _memory_kib() -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) if found else 0
