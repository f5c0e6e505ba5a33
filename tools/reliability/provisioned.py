"""Signs releases for one pretended device, with tuf's own classes only: the device is not tested against our host."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from models import DEVICE, Bundle
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

GROUP = "canary"
_COMPACT = JSONSerializer(compact=True)


class Signer:
    """One key for every role, one group, growing versions."""

    def __init__(self) -> None:
        self._key = CryptoSigner.generate_ed25519()
        self._version = 0
        root = Root(expires=_in_days(365))
        for role in ("root", "timestamp", "snapshot", "targets"):
            root.add_key(self._key.public_key, role)
        self.root = self._signed(root)

    def release(self, bundle: Bundle) -> dict[str, bytes]:
        """Return the metadata folder that makes a bundle the desired one."""
        self._version += 1
        manifest = json.loads(bundle.manifest)
        desired = _canonical(
            {
                "schema_version": 1,
                "group": GROUP,
                "name": manifest["name"],
                "version": manifest["version"],
                "bundle_sha256": bundle.sha256,
                "bundle_size_bytes": len(bundle.manifest),
                "selectors": [{"device": DEVICE}],
            }
        )
        group = Targets(version=self._version, expires=_in_days(30))
        group.targets = dict([_target(f"{GROUP}/desired.json", desired)])
        targets = Targets(version=self._version, expires=_in_days(30))
        targets.targets = dict(
            [
                _target(f"bundles/{bundle.sha256}/bundle.json", bundle.manifest),
                *(_target(f"blobs/{digest}", content) for digest, content in bundle.blobs.items()),
            ]
        )
        targets.delegations = Delegations({}, {GROUP: DelegatedRole(GROUP, [], 1, True, [f"{GROUP}/*"])})
        targets.add_key(self._key.public_key, GROUP)
        files = {
            f"{self._version}.{GROUP}.json": self._signed(group),
            f"{self._version}.targets.json": self._signed(targets),
            f"{bundle.sha256}.bundle.json": bundle.manifest,
            f"{hashlib.sha256(desired).hexdigest()}.desired.json": desired,
        }
        return {**files, **self._top(files)}

    def _top(self, files: dict[str, bytes]) -> dict[str, bytes]:
        snapshot = Snapshot(version=self._version, expires=_in_days(30))
        for name in (GROUP, "targets"):
            snapshot.meta[f"{name}.json"] = _meta(files[f"{self._version}.{name}.json"], self._version)
        content = self._signed(snapshot)
        timestamp = Timestamp(version=self._version, expires=_in_days(30))
        timestamp.snapshot_meta = _meta(content, self._version)
        signed_at = datetime.now(timezone.utc) - timedelta(minutes=1)
        timestamp.unrecognized_fields["x-edgekd-signed-at"] = signed_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        return {f"{self._version}.snapshot.json": content, "timestamp.json": self._signed(timestamp)}

    def _signed(self, payload: Any) -> bytes:
        metadata: Metadata[Any] = Metadata(payload)
        metadata.sign(self._key)
        return metadata.to_bytes(_COMPACT)


def provision(root: Path, signer: Signer, *, settings: dict[str, Any] | None = None) -> None:
    """Make the folder of a device as provisioning leaves it."""
    (root / "trust").mkdir(parents=True)
    (root / "trust" / "root.json").write_bytes(signer.root)
    identity = {"schema_version": 1, "device_id": "robot-7", "group": GROUP, "selector": {"device": DEVICE}}
    (root / "device.json").write_text(json.dumps(identity))
    chosen = {"schema_version": 1, "reserve_mib": 1, **(settings or {})}
    (root / "agent.json").write_text(json.dumps(chosen))
    (root / "staging" / "metadata").mkdir(parents=True)
    (root / "staging" / "blobs").mkdir()


def push(root: Path, signer: Signer, bundle: Bundle, *, only_missing: bool = True) -> None:
    """Push a release as a host does: metadata, then the blobs that are not there."""
    push_files(root, signer.release(bundle), bundle, only_missing=only_missing)


def push_files(root: Path, metadata: dict[str, bytes], bundle: Bundle, *, only_missing: bool = True) -> None:
    """Push metadata that were signed before, and the blobs of a bundle."""
    folder = root / "staging" / "metadata"
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in metadata.items():
        (folder / name).write_bytes(content)
    for digest, content in bundle.blobs.items():
        if only_missing and (root / "blobs" / "sha256" / digest[:2] / digest).exists():
            continue
        part = root / "staging" / "blobs" / f"{digest}.part"
        part.write_bytes(content)
        os.chmod(part, 0o644)


def _in_days(days: int) -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=days)


def _canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _target(path: str, content: bytes) -> tuple[str, TargetFile]:
    return path, TargetFile(len(content), {"sha256": hashlib.sha256(content).hexdigest()}, path)


def _meta(content: bytes, version: int) -> MetaFile:
    return MetaFile(version, len(content), {"sha256": hashlib.sha256(content).hexdigest()})
