"""A TUF repository in memory, after the idea of python-tuf's own simulator: tests change it and pour it into a folder.

It is written with tuf's metadata classes only, so that the device is not tested against edgekd's own host.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
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
DEVICE = Device("robot-7", "canary", {"device": "jetson-agx-orin-64gb"})
SELECTORS = ({"device": "jetson-agx-orin-64gb"},)
COMPACT = JSONSerializer(compact=True)


def canonical(document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def meta_file(content: bytes, version: int) -> MetaFile:
    return MetaFile(version, len(content), {"sha256": sha256(content)})


class Simulator:
    """Two groups, one bundle; root 2 of 3, all other roles one key each."""

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

    def want(self, group: str, bundle: bytes, **changes) -> None:
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
        path = f"{group}/desired.json"
        self.groups[group].targets[path] = TargetFile(len(content), {"sha256": sha256(content)}, path)
        self.files[f"{sha256(content)}.desired.json"] = content

    def sign_root(self, signers=None) -> bytes:
        """Sign the root as it is now under its version; by the first two of its keys unless told otherwise."""
        self.roots[self.root.version] = self.signed(self.root, signers or self.signers["root"][:2])
        return self.roots[self.root.version]

    def signed(self, payload, signers) -> bytes:
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


@dataclasses.dataclass
class Place:
    """A device's trust folder and its staging folder."""

    trust: Path
    staging: Path

    def push(self, files: Mapping[str, bytes]) -> None:
        shutil.rmtree(self.staging, ignore_errors=True)
        self.staging.mkdir()
        for name, content in files.items():
            (self.staging / name).write_bytes(content)

    def trusted(self) -> dict[str, bytes]:
        """Return everything the device trusts, hidden files too."""
        return {
            str(path.relative_to(self.trust)): path.read_bytes() for path in self.trust.rglob("*") if path.is_file()
        }


@pytest.fixture
def simulator(valid_bytes) -> Simulator:
    return Simulator(valid_bytes)


@pytest.fixture
def place(tmp_path, simulator) -> Place:
    made = Place(tmp_path / "trust", tmp_path / "staging")
    made.trust.mkdir()
    (made.trust / "root.json").write_bytes(simulator.roots[1])
    made.push(simulator.pour())
    return made
