"""A device on this machine's disk, driven as a process, with ONNX Runtime for the engine: nothing is pretended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgekd_agent
import numpy as np
from edgekd_agent import report
from edgekd_agent.device import Site
from edgekd_agent.layout import Layout
from models import INPUT, Bundle, Recipe, bundle
from provisioned import Signer, provision, push_files

AGENT_ROOT = Path(edgekd_agent.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(AGENT_ROOT), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Template:
    """A device with two releases installed and a third pushed; experiments copy it.

    Attributes:
        root: The device.
        signer: Who signs for it.
        before: What runs.
        wanted: What was pushed.
        metadata: What was pushed with it.
    """

    root: Path
    signer: Signer
    before: Bundle
    wanted: Bundle
    metadata: dict[str, bytes]

    def copy(self, root: Path) -> Path:
        """Make a device that is equal to this one."""
        shutil.copytree(self.root, root, symlinks=True)
        return root

    def push(self, root: Path) -> None:
        """Push what is wanted once more: what had arrived may have been dropped."""
        push_files(root, self.metadata, self.wanted)


def template(folder: Path) -> Template:
    """Make one."""
    signer = Signer()
    root = folder / "template"
    provision(root, signer)
    for version in (1, 2):
        release = bundle(Recipe(version))
        push_files(root, signer.release(release), release)
        done = agent(root, "install")
        if done.returncode:
            raise RuntimeError(f"the device to begin with could not be made: {done.stderr}")
    wanted = bundle(Recipe(3, padding_bytes=4096))
    metadata = signer.release(wanted)
    push_files(root, metadata, wanted)
    return Template(root, signer, bundle(Recipe(2)), wanted, metadata)


def command(root: Path, *words: str) -> list[str]:
    """Return the words that start the agent for a device."""
    return [sys.executable, "-m", "edgekd_agent", "--root", str(root), *words]


def agent(root: Path, *words: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command of the agent to its end."""
    return subprocess.run(
        [*before, *command(root, *words)], capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120
    )


def status(root: Path) -> dict[str, Any]:
    """Return what the agent's `status` says."""
    return report.status(Site(Layout(root)))


def what_runs(root: Path) -> str:
    """Return the digest of the bundle whose engine runs, by running it on its golden inputs.

    Raises:
        ValueError: Nothing runs.
    """
    import onnxruntime

    place = root / "current"
    try:
        manifest = (place / "manifest.json").read_bytes()
        document = json.loads(manifest)
        for item in document["artifacts"]:
            content = (place / f"{item['role']}{Path(item['path']).suffix}").read_bytes()
            if hashlib.sha256(content).hexdigest() != item["sha256"]:
                raise ValueError(f"{item['path']} is not what was signed")
        json.loads((place / "engine" / "build.json").read_bytes())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            (place / "model-fp32.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        with np.load(place / "golden.npz", allow_pickle=False) as golden:
            logits = session.run(None, {INPUT: golden["inputs"]})[0]
            if not np.allclose(logits, golden["logits"], atol=1e-3):
                raise ValueError("the engine does not give the golden answers")
    except (OSError, KeyError) as error:
        raise ValueError(f"nothing runs: {error!r}") from error
    return hashlib.sha256(manifest).hexdigest()
