"""Releases that must not run, each correctly signed: the one before goes on, and the reason is kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import models
from models import Bundle, Recipe, bundle
from provisioned import push_files
from real_device import ENVIRONMENT, Template, agent, status, template, what_runs

_CRASHING = """\
import os
__version__ = "crashing"
class SessionOptions:
    def add_session_config_entry(self, *entry): pass
def InferenceSession(*a, **k): os.abort()
"""


def releases(version: int) -> dict[str, tuple[Bundle, int, str]]:
    """Return bad releases by name, with the exit code and the words that they must end with."""
    return {
        "answers are NaN": (bundle(Recipe(version, model=models.nan_model(version))), 3, "NaN or infinite"),
        "one class too many": (bundle(Recipe(version, model=models.wide_model(version))), 3, "have shape"),
        "wrong answers": (bundle(Recipe(version, shift=1.0)), 3, "max_abs_error"),
        "too slow": (
            bundle(Recipe(version, model=models.slow_model(version, layers=6), budget_ms={"p99": 0.5})),
            3,
            "p99 is",
        ),
        "too much memory": (
            bundle(Recipe(version, model=models.huge_model(version, 200), max_memory_mib=200)),
            3,
            "MiB, allowed are 200",
        ),
        "no model at all": (bundle(Recipe(version, model=b"not an ONNX file")), 1, "does not take the model"),
        "a model cut short": (
            bundle(Recipe(version, model=models.good_model(version)[:-40])),
            1,
            "does not take the model",
        ),
        "another input": (
            bundle(Recipe(version, model=models.good_model(version).replace(b"input", b"other"))),
            1,
            "the plan says",
        ),
    }


def try_one(device: Template, root: Path, release: Bundle, code: int, words: str) -> list[str]:
    """Install a bad release on a device; return what was wrong with how it ended."""
    problems = []
    before = what_runs(root)
    push_files(root, device.signer.release(release), release)
    done = agent(root, "install", "--json")
    now = status(root)
    if done.returncode != code:
        problems.append(f"ended with {done.returncode}, not {code}: {done.stderr.strip()}")
    if what_runs(root) != before:
        problems.append("something else runs now")
    if words not in str((now["last"] or {}).get("reason")):
        problems.append(f"the reason is {now['last']}")
    if agent(root, "install").returncode != 1:
        problems.append("it was tried again without being forgiven")
    return problems


def crash(device: Template, root: Path, scratch: Path) -> list[str]:
    """Install a good release with a builder that aborts."""
    folder = scratch / "crashing"
    folder.mkdir(exist_ok=True)
    (folder / "onnxruntime.py").write_text(_CRASHING)
    (root / "facts.json").unlink(missing_ok=True)
    before = ENVIRONMENT["PYTHONPATH"]
    ENVIRONMENT["PYTHONPATH"] = f"{folder}:{before}"
    try:
        return try_one(device, root, device.wanted, 1, "SIGABRT")
    finally:
        ENVIRONMENT["PYTHONPATH"] = before
        (root / "facts.json").unlink(missing_ok=True)


def run(scratch: Path, *, repeats: int = 10) -> dict[str, Any]:
    """Try every bad release several times.

    Args:
        scratch: Folder for the devices.
        repeats: How often, each time with other weights.

    Returns:
        Plain figures.
    """
    device = template(scratch)
    failures: list[str] = []
    counts: dict[str, int] = {}
    for repeat in range(repeats):
        root = device.copy(scratch / f"device-{repeat}")
        found = {name: try_one(device, root, *case) for name, case in releases(10 + repeat).items()}
        found["the builder crashes"] = crash(device, root, scratch)
        for name, problems in found.items():
            failures += [f"{name}: {text}" for text in problems]
            counts[name] = counts.get(name, 0) + 1
        good = bundle(Recipe(100 + repeat))
        push_files(root, device.signer.release(good), good)
        if agent(root, "install").returncode or what_runs(root) != good.sha256:
            failures.append("a good release could not be installed after the bad ones")
        shutil.rmtree(root)
    return {"installs": sum(counts.values()), "by_kind": counts, "failures": failures}
