"""Every attack of the TUF specification by its name, and those that shipping engines adds, against one device.

Each attack starts from a device that has accepted release 2 of a repository and runs an engine. It brings other files,
and the device must refuse them for the right reason and be, file by file, what it was before.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import device_attacks  # noqa: F401 - adds its own
from attack_scene import ATTACKS, Scene, attack, outcome, resigned
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import TargetFile
from tuf_repository import NOW, Repository, canonical, sample_bundle, sha256

_HUGE_BYTES = 1 << 33


def run(scratch: Path, **_: Any) -> dict[str, Any]:
    """Run every attack.

    Args:
        scratch: A folder for devices.

    Returns:
        Number of attacks, of those accepted, refused for a wrong reason, or after which the device was another, and
        the reason of each.
    """
    found = {one.name: outcome(one, scratch / f"device{number}") for number, one in enumerate(ATTACKS)}
    kinds = {one.name: one.kinds for one in ATTACKS}
    wrong = [name for name, (kind, is_same) in found.items() if kind not in kinds[name] or not is_same]
    return {
        "attacks": len(found),
        "accepted": sum(kind == "accepted" for kind, _ in found.values()),
        "refused_for_a_wrong_reason": sum(kind not in (*kinds[name], "accepted") for name, (kind, _) in found.items()),
        "devices_changed": sum(not is_same for _, is_same in found.values()),
        "failures": len(wrong),
        "reasons": {name: kind for name, (kind, _) in found.items()},
    }


@attack("arbitrary software: another bundle.json in the place of the signed one", "digest", "length")
def _other_bundle(scene: Scene) -> None:
    name = f"{sha256(sample_bundle(2))}.bundle.json"
    scene.brings({**scene.current, name: sample_bundle(2, model=b"evil!")})


@attack("arbitrary software: everything signed with the attacker's own keys", "signature")
def _own_keys(scene: Scene) -> None:
    stranger = Repository(sample_bundle(9))
    stranger.bump()
    stranger.bump()
    scene.brings(stranger.pour())


@attack("arbitrary software: a root of the attacker's own", "signature")
def _own_root(scene: Scene) -> None:
    stranger = Repository(sample_bundle(9))
    stranger.root.version = 2
    stranger.sign_root()
    stranger.bump()
    stranger.bump()
    scene.brings(stranger.pour())


@attack("arbitrary software: a group key signs a bundle that was never released", "missing")
def _group_key_alone(scene: Scene) -> None:
    scene.repository.want("canary", sample_bundle(7))
    scene.repository.files[f"{sha256(sample_bundle(7))}.bundle.json"] = sample_bundle(7)
    resigned(scene)


@attack("arbitrary software: a group key lists the bundle in its own role", "missing")
def _group_key_lists_bundle(scene: Scene) -> None:
    content = sample_bundle(7)
    path = f"bundles/{sha256(content)}/bundle.json"
    scene.repository.groups["canary"].targets[path] = TargetFile(len(content), {"sha256": sha256(content)}, path)
    _group_key_alone(scene)


@attack("rollback: all metadata of the release before", "rollback")
def _replay(scene: Scene) -> None:
    scene.brings(scene.old)


@attack("rollback: a newer timestamp that names an older snapshot", "rollback")
def _old_snapshot(scene: Scene) -> None:
    scene.repository.snapshot.version = 1
    scene.repository.bump("timestamp")
    scene.brings(scene.repository.pour())


@attack("rollback: a newer snapshot that lists older targets", "rollback")
def _old_targets(scene: Scene) -> None:
    scene.repository.targets.version = 1
    scene.repository.bump("timestamp", "snapshot")
    scene.brings(scene.repository.pour())


@attack("rollback: a newer snapshot that lists an older desired state", "rollback")
def _old_desired(scene: Scene) -> None:
    scene.repository.groups["canary"].version = 1
    scene.repository.bump("timestamp", "snapshot")
    scene.brings(scene.repository.pour())


@attack("rollback: a newer snapshot that forgets a role", "rollback")
def _forgotten_role(scene: Scene) -> None:
    repository = scene.repository
    repository.bump("timestamp", "snapshot")
    fleet = repository.groups.pop("fleet")
    del repository.snapshot.meta["fleet.json"]
    scene.brings(repository.pour())
    repository.groups["fleet"] = fleet


@attack("fast-forward: honest metadata after an attacker raised the versions", "rollback")
def _after_fast_forward(scene: Scene) -> None:
    # The attacker has the online key: what he signed is accepted. His aim is that nothing is accepted afterwards.
    honest = copy.deepcopy(scene.repository.timestamp.version), scene.repository.snapshot.version
    scene.repository.timestamp.version = scene.repository.snapshot.version = 2**31
    scene.device.push(scene.repository.pour())
    scene.device.ask()
    scene.repository.timestamp.version, scene.repository.snapshot.version = honest[0] + 1, honest[1] + 1
    scene.device.push(scene.repository.pour())


def _expire(scene: Scene, role: str) -> None:
    payload = scene.repository.groups.get(role) or getattr(scene.repository, role)
    payload.expires = NOW - timedelta(hours=1)
    resigned(scene)


@attack("indefinite freeze: the same files for ever", "expired")
def _frozen(scene: Scene) -> None:
    scene.device.now = NOW + timedelta(days=8)


@attack("indefinite freeze: expired timestamp", "expired")
def _expired_timestamp(scene: Scene) -> None:
    _expire(scene, "timestamp")


@attack("indefinite freeze: expired snapshot", "expired")
def _expired_snapshot(scene: Scene) -> None:
    _expire(scene, "snapshot")


@attack("indefinite freeze: expired targets", "expired")
def _expired_targets(scene: Scene) -> None:
    _expire(scene, "targets")


@attack("indefinite freeze: expired desired state", "expired")
def _expired_desired(scene: Scene) -> None:
    _expire(scene, "canary")


@attack("indefinite freeze: the device's clock set back", "expired")
def _clock_set_back(scene: Scene) -> None:
    # The device has seen a time that was signed six days later than its clock says now.
    scene.repository.signed_at = NOW + timedelta(days=6)
    resigned(scene)
    scene.device.ask()
    scene.device.now = NOW - timedelta(days=300)
    scene.repository.timestamp.expires = NOW + timedelta(days=5)
    scene.repository.signed_at = NOW + timedelta(days=4)
    resigned(scene)


def _endless(scene: Scene, name: str) -> None:
    scene.brings(scene.current)
    with open(scene.device.staging / name, "ab") as stream:
        stream.truncate(_HUGE_BYTES)


@attack("endless data: timestamp", "length")
def _endless_timestamp(scene: Scene) -> None:
    _endless(scene, "timestamp.json")


@attack("endless data: root", "length")
def _endless_root(scene: Scene) -> None:
    _endless(scene, "2.root.json")


@attack("endless data: snapshot", "length")
def _endless_snapshot(scene: Scene) -> None:
    resigned(scene)
    _endless_of(scene, "snapshot")


@attack("endless data: targets", "length")
def _endless_targets(scene: Scene) -> None:
    resigned(scene)
    _endless_of(scene, "targets")


@attack("endless data: desired state", "length")
def _endless_desired(scene: Scene) -> None:
    resigned(scene)
    _endless_of(scene, "desired")


@attack("endless data: bundle.json", "length")
def _endless_bundle(scene: Scene) -> None:
    resigned(scene)
    _endless_of(scene, "bundle")


def _endless_of(scene: Scene, kind: str) -> None:
    for path in scene.device.staging.glob(f"*.{kind}.json"):
        with open(path, "ab") as stream:
            stream.truncate(_HUGE_BYTES)


@attack("endless data: a group signs a desired state beyond all bounds", "length")
def _endless_signed(scene: Scene) -> None:
    scene.repository.want_bytes("canary", b" " * (1 << 20))
    resigned(scene)


@attack("extraneous dependencies: a bundle with a file more than was signed", "digest", "length")
def _one_file_more(scene: Scene) -> None:
    document = json.loads(sample_bundle(2))
    document["artifacts"].append({**document["artifacts"][0], "path": "zz.npz", "role": "more", "sha256": "0" * 64})
    scene.brings({**scene.current, f"{sha256(sample_bundle(2))}.bundle.json": canonical(document)})


@attack("extraneous dependencies: a signed bundle lists a file that was not signed", "missing")
def _unsigned_file(scene: Scene) -> None:
    document = json.loads(sample_bundle(4))
    more = {**document["artifacts"][0], "path": "zz.npz", "role": "more", "sha256": "0" * 64}
    bundle = canonical({**document, "artifacts": [*document["artifacts"], more]})
    scene.repository.release(bundle)
    del scene.repository.targets.targets[f"blobs/{'0' * 64}"]
    resigned(scene)


@attack("extraneous dependencies: a signed bundle lists a file with another length than was signed", "length")
def _other_length(scene: Scene) -> None:
    scene.repository.release(sample_bundle(4))
    scene.repository.targets.targets[f"blobs/{sha256(b'golden')}"].length += 1
    resigned(scene)


@attack("extraneous dependencies: another file is signed under the digest that the bundle lists", "digest")
def _other_digest(scene: Scene) -> None:
    scene.repository.release(sample_bundle(4))
    scene.repository.targets.targets[f"blobs/{sha256(b'golden')}"].hashes = {"sha256": "0" * 64}
    resigned(scene)


@attack("mix and match: old targets under the name of the new ones", "digest", "length", "rollback")
def _mixed_targets(scene: Scene) -> None:
    resigned(scene)
    _mix(scene, "targets")


@attack("mix and match: old snapshot under the name of the new one", "digest", "length", "rollback")
def _mixed_snapshot(scene: Scene) -> None:
    resigned(scene)
    _mix(scene, "snapshot")


@attack("mix and match: old desired state under the name of the new one", "digest", "length", "rollback")
def _mixed_group(scene: Scene) -> None:
    resigned(scene)
    _mix(scene, "canary")


def _mix(scene: Scene, role: str) -> None:
    (scene.device.staging / f"3.{role}.json").write_bytes(scene.current[f"2.{role}.json"])


@attack("wrong software: another signed bundle under the wanted name", "digest", "length")
def _other_release(scene: Scene) -> None:
    wanted, other = (f"{sha256(sample_bundle(version))}.bundle.json" for version in (2, 1))
    scene.brings({**scene.current, wanted: scene.old[other]})


@attack("wrong software: the desired state of the release before under the name of the new one", "digest", "length")
def _other_desired(scene: Scene) -> None:
    resigned(scene)
    contents = {path: path.read_bytes() for path in scene.device.staging.glob("*.desired.json")}
    (new,) = (path for path, content in contents.items() if b'"canary"' in content and b'"version":2' in content)
    (old,) = (content for content in contents.values() if b'"canary"' in content and b'"version":1' in content)
    new.write_bytes(old)


@attack("wrong software: the desired state calls a bundle by another name", "schema")
def _other_name(scene: Scene) -> None:
    scene.repository.want("canary", sample_bundle(2), name="faces-student")
    resigned(scene)


@attack("wrong software: the desired state calls an old bundle new", "schema")
def _other_version(scene: Scene) -> None:
    scene.repository.want("canary", sample_bundle(1), version=9)
    resigned(scene)


@attack("wrong software: the release key lists another bundle under the digest of this one", "digest")
def _other_under_digest(scene: Scene) -> None:
    repository, other = scene.repository, sample_bundle(4)
    repository.release(other)
    repository.want("canary", sample_bundle(2), bundle_size_bytes=len(other))
    path = f"bundles/{sha256(sample_bundle(2))}/bundle.json"
    repository.targets.targets[path] = TargetFile(len(other), {"sha256": sha256(other)}, path)
    resigned(scene)


@attack("wrong software: the desired state gives a bundle another length", "length")
def _other_bundle_length(scene: Scene) -> None:
    scene.repository.want("canary", sample_bundle(2), bundle_size_bytes=len(sample_bundle(2)) + 1)
    resigned(scene)


@attack("malicious mirror: nothing at all", "missing")
def _nothing(scene: Scene) -> None:
    scene.brings({})


@attack("malicious mirror: no staging folder", "missing")
def _no_folder(scene: Scene) -> None:
    scene.device.staging.rename(scene.device.staging.with_name("gone"))


def _without(kind: str) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        resigned(scene)
        for path in scene.device.staging.glob(kind):
            path.unlink()

    return act


for _missing in ("timestamp", "3.snapshot", "3.targets", "3.canary"):
    attack(f"malicious mirror: without {_missing}.json", "missing")(_without(f"{_missing}.json"))
for _missing in ("desired", "bundle"):
    attack(f"malicious mirror: without the {_missing}.json", "missing")(_without(f"*.{_missing}.json"))


@attack("slow retrieval: a pipe that never gives a byte", "missing")
def _pipe(scene: Scene) -> None:
    path = scene.device.staging / "timestamp.json"
    path.unlink()
    os.mkfifo(path)


@attack("malicious mirror: links in the place of files", "missing")
def _links(scene: Scene) -> None:
    for path in list(scene.device.staging.iterdir()):
        moved = path.rename(scene.device.home / "staging" / path.name)
        path.symlink_to(moved)


@attack("malicious mirror: a folder in the place of a file", "missing")
def _folder(scene: Scene) -> None:
    path = scene.device.staging / "timestamp.json"
    path.unlink()
    path.mkdir()


def _after_replacing(role: str) -> Callable[[Scene], None]:
    """The operators replaced a stolen key and the device knows; the thief goes on signing with it."""

    def act(scene: Scene) -> None:
        repository = scene.repository
        repository.root.version = 2
        stolen = repository.new_keys(role)
        repository.sign_root()
        resigned(scene)
        scene.device.ask()
        repository.signers[role] = stolen
        resigned(scene)

    return act


for _role in ("timestamp", "snapshot", "targets"):
    attack(f"key compromise: the revoked key of {_role} goes on signing", "signature")(_after_replacing(_role))


@attack("key compromise: the revoked key of a group goes on signing", "signature")
def _revoked_group(scene: Scene) -> None:
    repository = scene.repository
    stolen = repository.signers["canary"]
    repository.targets.revoke_key(stolen[0].public_key.keyid, "canary")
    repository.signers["canary"] = [CryptoSigner.generate_ed25519()]
    repository.targets.add_key(repository.signers["canary"][0].public_key, "canary")
    resigned(scene)
    scene.device.ask()
    repository.signers["canary"] = stolen
    resigned(scene)


@attack("below threshold: a root signed by one of two old keys", "signature")
def _one_root_key(scene: Scene) -> None:
    repository = scene.repository
    repository.root.version = 2
    repository.sign_root(repository.signers["root"][:1])
    resigned(scene)


@attack("below threshold: a root that two old keys signed, but not enough of its own", "signature")
def _new_root_unsigned(scene: Scene) -> None:
    repository = scene.repository
    repository.root.version = 2
    old = repository.new_keys("root", 3)
    repository.sign_root(old[:2])
    resigned(scene)


@attack("below threshold: one signature twice", "signature", "schema")
def _twice(scene: Scene) -> None:
    repository = scene.repository
    repository.root.version = 2
    document = json.loads(repository.sign_root(repository.signers["root"][:1]))
    document["signatures"] *= 2
    repository.roots[2] = canonical(document)
    resigned(scene)


@attack("below threshold: one key under two names", "signature")
def _two_names(scene: Scene) -> None:
    repository = scene.repository
    repository.root.version = 2
    document = json.loads(repository.sign_root(repository.signers["root"][:1]))
    document["signatures"].append({**document["signatures"][0], "keyid": repository.root.roles["root"].keyids[1]})
    repository.roots[2] = canonical(document)
    resigned(scene)


@attack("below threshold: nobody signed the timestamp", "signature")
def _unsigned(scene: Scene) -> None:
    scene.repository.bump()
    files = scene.repository.pour()
    document = json.loads(files["timestamp.json"])
    scene.brings({**files, "timestamp.json": canonical({**document, "signatures": []})})


@attack("expired root: the newest root has expired", "expired", keeps_root=True)
def _expired_root(scene: Scene) -> None:
    repository = scene.repository
    repository.root.expires = NOW - timedelta(days=1)
    repository.root.version = 2
    repository.sign_root()
    resigned(scene)
