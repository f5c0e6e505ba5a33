"""A pretended TensorRT in this process, so that thousands of installs take minutes: real files, real plans on disk.

Its plan is the digest of the model it was built from. So whether an engine on disk can run is decided by its bytes, by
code that shares nothing with the agent's own checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

from edgekd_agent import durable, generations, journal
from edgekd_agent.bundle import Manifest
from edgekd_agent.engine import child, facts
from edgekd_agent.reader import parse_manifest
from recording import Recorder

FACTS = {"machine": "pretended", "gpu": "pretended", "sm": 87, "tensorrt": "10.3.0", "onnxruntime": None, "l4t": None}


@contextmanager
def tensorrt(recorder: Recorder | None = None, *, verdicts: Mapping[str, str] | None = None) -> Iterator[None]:
    """Build and check in this process.

    Args:
        recorder: Is told what the builder writes.
        verdicts: By part (`"build"`, `"check"`), the reason why it fails.
    """

    def run(part: str, job: Mapping[str, Any], *, folder: Path, log: Path, limits: child.Limits) -> child.Ended:
        del log, limits
        if verdicts and part in verdicts:
            kind = "health" if part == "check" else "build"
            return child.Ended("refused", verdicts[part], kind, {}, 0.0, 0, "")
        result = _build(job, folder, recorder) if part == "build" else _check(job)
        return child.Ended("done", "", "", result, 0.0, 0, "")

    with (
        mock.patch.object(child, "run", run),
        mock.patch.object(facts, "gather", lambda _: FACTS),
        mock.patch.object(facts, "available_memory_bytes", lambda: 8 << 30),
        mock.patch.object(facts, "hottest_c", lambda: None),
        mock.patch.object(generations, "parse_manifest", _parsed),
        mock.patch.object(journal, "_record", _RECORDS),
    ):
        yield


_RECORDS = lru_cache(maxsize=4096)(journal._record)


@lru_cache(maxsize=256)
def _parsed(content: bytes) -> Manifest:
    return parse_manifest(content)


def plan_of(model: bytes) -> bytes:
    """Return the plan of a model."""
    return b"plan of " + hashlib.sha256(model).hexdigest().encode()


def what_runs(root: Path, link: str = "current") -> str | None:
    """Return the digest of the bundle whose engine would run, None when the link leads nowhere.

    Raises:
        ValueError: It leads somewhere, and what is there cannot run: a file is missing, or not the bytes it must be.
    """
    place = root / link
    if not place.is_symlink():
        return None
    try:
        manifest = (place / "manifest.json").read_bytes()
        document = json.loads(manifest)
        model = next(item for item in document["artifacts"] if item["path"] == document["build"]["model"])
        for item in document["artifacts"]:
            content = (place / f"{item['role']}{Path(item['path']).suffix}").read_bytes()
            if hashlib.sha256(content).hexdigest() != item["sha256"]:
                raise ValueError(f"{link}: {item['path']} is not what was signed")
        onnx = (place / f"{model['role']}.onnx").read_bytes()
        plan = (place / "engine" / "model.plan").read_bytes()
        json.loads((place / "engine" / "build.json").read_bytes())
    except (OSError, KeyError, StopIteration) as error:
        raise ValueError(f"{link}: {error!r}") from error
    if plan != plan_of(onnx):
        raise ValueError(f"{link}: the engine is not the one of the model")
    return hashlib.sha256(manifest).hexdigest()


def _build(job: Mapping[str, Any], folder: Path, recorder: Recorder | None) -> dict[str, Any]:
    durable.remove_tree(folder)
    durable.mkdir(folder)
    for name, content in (("model.plan", plan_of(Path(job["model"]).read_bytes())), ("timing.cache", b"timing")):
        (folder / name).write_bytes(content)
        if recorder:
            recorder.note("create", folder / name)
            recorder.note("write", folder / name, content)
    return {"versions": {"tensorrt": "10.3.0"}, "options": {}}


def _check(job: Mapping[str, Any]) -> dict[str, Any]:
    plan = (Path(job["build"]) / "model.plan").read_bytes()
    if plan != plan_of(Path(job["model"]).read_bytes()):
        raise AssertionError("a candidate with another model's engine came to the check")
    return {"metric": 0.0}
