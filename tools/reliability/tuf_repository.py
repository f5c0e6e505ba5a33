"""A TUF repository in memory, after the idea of python-tuf's own simulator: attacks change it, then pour it out.

It is written with tuf's metadata classes only, so that the device is not tested against edgekd's own host.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from edgekd_agent.trust import Device
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

NOW = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
BUILT = datetime(2026, 1, 1, tzinfo=timezone.utc)
BOARD = "jetson-agx-orin-64gb"
DEVICE = Device("robot-7", "canary", {"device": BOARD})
SELECTORS = ({"device": BOARD},)
COMPACT = JSONSerializer(compact=True)


def canonical(document: Any) -> bytes:
    """Return canonical JSON."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def sha256(content: bytes) -> str:
    """Return a digest in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def meta_file(content: bytes, version: int) -> MetaFile:
    """Return how one role lists another."""
    return MetaFile(version, len(content), {"sha256": sha256(content)})


def sample_bundle(
    version: int = 3, *, name: str = "digits-student", device: str = BOARD, model: bytes = b"model"
) -> bytes:
    """Return a small valid `bundle.json`."""
    files = {"golden.npz": ("golden", b"golden"), "model-fp32.onnx": ("model-fp32", model)}
    media = {"golden.npz": "application/x-npz", "model-fp32.onnx": "application/x-onnx"}
    shape = {"input_name": "input", "min": [1, 1, 8, 8], "opt": [1, 1, 8, 8], "max": [4, 1, 8, 8]}
    document = {
        "schema_version": 1,
        "name": name,
        "version": version,
        "created": "2026-01-31T12:00:00Z",
        "min_agent": "0.1.0",
        "targets": [
            {"name": device, "device": device, "title": device, "kind": "jetson", "sm": 87, "power_mode": "MAXN",
             "jetpack": "6.2", "tensorrt": "10.3", "cuda": None}
        ],
        "artifacts": [
            {"path": path, "role": role, "media_type": media[path], "size_bytes": len(data), "sha256": sha256(data)}
            for path, (role, data) in sorted(files.items())
        ],
        "build": {"backend": "tensorrt", "model": "model-fp32.onnx", "precision": "fp32", "strongly_typed": True,
                  "flags": ["TF32"], "opt_profile": shape, "workspace_mib": 256, "timing_cache": "equal-key-only"},
        "health": {"golden": "golden.npz", "metric": "max_abs_error", "tolerance": 0.01, "budget_ms": {"p99": 8.0},
                   "warmup": 20, "max_memory_mib": None},
        "provenance": {"recipe_sha256": "ab" * 32, "data_sha256": "ab" * 32, "parents": [], "metrics": {},
                       "made_by": "edgekd"},
    }  # fmt: skip
    return canonical(document)


class Repository:
    """Two groups, one bundle; root 2 of 3, all other roles one key each.

    Attributes are tuf's own objects: change them, then `pour`. Versions only change by hand or by `bump`.

    Args:
        bundle: Content of a `bundle.json`.
    """

    def __init__(self, bundle: bytes) -> None:
        self.signers: dict[str, list[CryptoSigner]] = {
            role: [CryptoSigner.generate_ed25519() for _ in range(3 if role == "root" else 1)]
            for role in ("root", "timestamp", "snapshot", "targets", "canary", "fleet")
        }
        self.signed_at = NOW - timedelta(hours=1)
        expires = NOW + timedelta(days=7)
        self.root = Root(expires=NOW + timedelta(days=365))
        for role in ("root", "timestamp", "snapshot", "targets"):
            for signer in self.signers[role]:
                self.root.add_key(signer.public_key, role)
        self.root.roles["root"].threshold = 2
        self.timestamp = Timestamp(expires=expires)
        self.snapshot = Snapshot(expires=expires)
        self.targets = Targets(expires=expires)
        self.targets.delegations = Delegations({}, {})
        self.groups: dict[str, Targets] = {}
        self.roots: dict[int, bytes] = {}
        self.files: dict[str, bytes] = {}
        for group in ("canary", "fleet"):
            self.groups[group] = Targets(expires=expires)
            self.targets.delegations.roles[group] = DelegatedRole(group, [], 1, True, [f"{group}/*"])
            self.targets.add_key(self.signers[group][0].public_key, group)
        self.release(bundle)
        self.sign_root()

    def release(self, bundle: bytes) -> None:
        """Sign a bundle and its blobs as targets, and make every group want it."""
        digest = sha256(bundle)
        self.targets.targets[f"bundles/{digest}/bundle.json"] = TargetFile(
            len(bundle), {"sha256": digest}, f"bundles/{digest}/bundle.json"
        )
        self.files[f"{digest}.bundle.json"] = bundle
        for artifact in json.loads(bundle)["artifacts"]:
            path = f"blobs/{artifact['sha256']}"
            self.targets.targets[path] = TargetFile(artifact["size_bytes"], {"sha256": artifact["sha256"]}, path)
        for group in self.groups:
            self.want(group, bundle)

    def want(self, group: str, bundle: bytes, /, **changes: Any) -> None:
        """Make a group want a bundle; `changes` replace fields of its desired state."""
        document = json.loads(bundle)
        desired = {
            "schema_version": 1,
            "group": group,
            "name": document["name"],
            "version": document["version"],
            "bundle_sha256": sha256(bundle),
            "bundle_size_bytes": len(bundle),
            "selectors": SELECTORS,
        }
        self.want_bytes(group, canonical({**desired, **changes}))

    def want_bytes(self, group: str, content: bytes) -> None:
        """Sign any content as the desired state of a group."""
        path = f"{group}/desired.json"
        self.groups[group].targets[path] = TargetFile(len(content), {"sha256": sha256(content)}, path)
        self.files[f"{sha256(content)}.desired.json"] = content

    def sign_root(self, signers: Sequence[CryptoSigner] | None = None) -> bytes:
        """Sign the root as it is now under its version; by the first two of its keys unless told otherwise."""
        self.roots[self.root.version] = self.signed(self.root, signers or self.signers["root"][:2])
        return self.roots[self.root.version]

    def signed(self, payload: Any, signers: Sequence[CryptoSigner]) -> bytes:
        """Return metadata signed by all of these keys."""
        metadata = Metadata(payload)
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes(COMPACT)

    def bump(self, *roles: str) -> None:
        """Raise versions, all but the root's by default."""
        for role in roles or ("timestamp", "snapshot", "targets", *self.groups):
            payload = self.groups.get(role) or getattr(self, role)
            payload.version += 1

    def pour(self) -> dict[str, bytes]:
        """Return what a staging folder would hold: every file by name."""
        files = {f"{version}.root.json": content for version, content in self.roots.items() if version > 1}
        for name, payload in {"targets": self.targets, **self.groups}.items():
            content = self.signed(payload, self.signers[name])
            files[f"{payload.version}.{name}.json"] = content
            self.snapshot.meta[f"{name}.json"] = meta_file(content, payload.version)
        snapshot = self.signed(self.snapshot, self.signers["snapshot"])
        files[f"{self.snapshot.version}.snapshot.json"] = snapshot
        self.timestamp.snapshot_meta = meta_file(snapshot, self.snapshot.version)
        self.timestamp.unrecognized_fields["x-edgekd-signed-at"] = self.signed_at.strftime("%Y-%m-%dT%H:%M:%SZ")
        files["timestamp.json"] = self.signed(self.timestamp, self.signers["timestamp"])
        return {**files, **self.files}

    def new_keys(self, role: str, number: int = 1) -> list[CryptoSigner]:
        """Replace the keys of a top-level role in the root; return the old ones. The root is not signed by this."""
        old = self.signers[role]
        for signer in old:
            self.root.revoke_key(signer.public_key.keyid, role)
        self.signers[role] = [CryptoSigner.generate_ed25519() for _ in range(number)]
        for signer in self.signers[role]:
            self.root.add_key(signer.public_key, role)
        return old
