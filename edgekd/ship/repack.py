"""A bundle made from another: a new release number, or engines and timing caches that were made on devices.

An engine fits one kind of device only. Its key, a digest over the device's facts, the build plan and the model, is part
of its path; a device with another key ignores it and builds its own.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import edgekd_agent
from edgekd_agent import MANIFEST_NAME, Artifact, Manifest
from edgekd_agent.engine.keys import engine_key, timing_key
from edgekd_agent.errors import AgentError

from edgekd.core import atomic
from edgekd.core.artifacts import Bundle, FileRef
from edgekd.core.errors import ConfigError, StorageError
from edgekd.ship.bundle import checked_bytes, require_replaceable, verify
from edgekd.ship.placement import replacing_folder

_ROLE_KEY_CHARS = 16


@dataclass(frozen=True)
class DeviceFile:
    """Something a device made that others of its kind may use.

    Attributes:
        kind: `"engine"` or `"timing"`.
        source: The file.
        facts: What `edgekd-agent hello` says about the device.
    """

    kind: Literal["engine", "timing"]
    source: Path
    facts: Mapping[str, Any]


def repack(
    source: Path, folder: Path, *, version: int | None = None, device_files: Sequence[DeviceFile] = ()
) -> Bundle:
    """Write a bundle that is another one with changes.

    Args:
        source: The bundle to start from; it must be whole and stays as it is.
        folder: The bundle to make.
        version: Its release number; that of `source` by default.
        device_files: Engines and timing caches to add.

    Returns:
        The new bundle.

    Raises:
        ConfigError: A file or its facts cannot be used, or `folder` holds something that is no bundle.
        BundleError: The source is not whole.
        StorageError: The file system refused.
    """
    verify(source)
    manifest = edgekd_agent.read_manifest(source / MANIFEST_NAME)
    sources = {artifact.path: source / artifact.path for artifact in manifest.artifacts}
    added = {}
    for item in device_files:
        artifact = _artifact(item, manifest)
        added[artifact.path] = artifact
        sources[artifact.path] = item.source
    kept = [artifact for artifact in manifest.artifacts if artifact.path not in added]
    artifacts = tuple(sorted([*kept, *added.values()], key=lambda artifact: artifact.path))
    made = dataclasses.replace(manifest, version=version or manifest.version, artifacts=artifacts)
    content = checked_bytes(made)
    folder = folder.absolute()
    require_replaceable(folder)
    with replacing_folder(folder) as staging:
        for path, origin in sources.items():
            with atomic.replacing(staging / path) as temporary:
                shutil.copyfile(origin, temporary)
        atomic.write_bytes(staging / MANIFEST_NAME, content)
        verify(staging)
    return verify(folder)


def read_facts(path: Path) -> Mapping[str, Any]:
    """Read what a device's agent says about itself: its `hello` document, or only the `facts` in it.

    Raises:
        ConfigError: The file is missing or is no such document.
    """
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not what edgekd-agent hello --json prints: {error}") from error
    facts = document.get("facts", document) if isinstance(document, dict) else None
    if not isinstance(facts, dict) or "machine" not in facts:
        raise ConfigError(f"{path}: not what edgekd-agent hello --json prints: no facts of a machine")
    return facts


def _artifact(item: DeviceFile, manifest: Manifest) -> Artifact:
    if not item.source.is_file():
        raise StorageError(f"{item.source}: no such file, wanted as {item.kind}")
    try:
        key = (engine_key if item.kind == "engine" else timing_key)(manifest, item.facts)
    except (AgentError, TypeError, ValueError) as error:
        raise ConfigError(f"the facts of {item.source} are not those of a device that runs this: {error}") from error
    path = f"engines/{key}/model.plan" if item.kind == "engine" else f"timing/{key}.cache"
    file = FileRef.of(item.source)
    media_type = edgekd_agent.media_type_of(path) or ""
    return Artifact(path, f"{item.kind}-{key[:_ROLE_KEY_CHARS]}", media_type, file.size_bytes, file.sha256)
